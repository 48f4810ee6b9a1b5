// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IFollowsStandings, Standings} from "./Standings.sol";

/// @notice Says what may register: workloads, and how current a platform must be. Its owner can do nothing else, and never touches money.
abstract contract MeasurementPolicy is Ownable, Standings {
    /// @notice Fills one slot with what registering reads. The quoting enclave's identity stands here for that reason alone.
    struct TcbRules {
        uint32 killedBlock; // nonces up to this block count no more
        uint8 statuses; // bit n allows the n-th TCB status, best first
        uint16 minEvaluation; // lowest tcbEvaluationDataNumber
        uint16 maxCollateralAgeHours; // from the issue date
        bool crlRequired; // whether a platform's CA must have a posted revocation list
        uint16 collateralEpoch; // how often a signer of collateral was revoked
        address qeTable; // see `Collateral`
    }

    struct Workload {
        uint16 index; // from 1; zero when it was never approved
        bool approved;
    }

    /// @notice Says when a workload was last stopped, and when it was taken up again (unix seconds); zero where it never was.
    struct Suspension {
        uint64 revokedAt;
        uint64 reinstatedAt;
    }

    /// @notice How long after a workload was stopped the owner can take it up again so that work of before is still paid.
    uint256 public constant APPEAL_WINDOW = 7 days;
    /// @notice How long after that whoever was frozen meanwhile has time to claim.
    uint256 public constant REINSTATED_WINDOW = 1 days;

    /// @notice The rules for platforms and their collateral.
    TcbRules public tcbRules;
    /// @notice The workloads ever approved.
    mapping(bytes32 workload => Workload) public workloads;
    mapping(uint16 index => Suspension) private suspensions;
    uint16 private last;

    event Approved(bytes32 indexed workload, uint16 index);
    event Revoked(bytes32 indexed workload, uint16 index);
    event Killed(uint16 policyEpoch, uint40 killedAt);
    event TcbRulesSet(uint8 statuses, uint16 minEvaluation, uint16 maxCollateralAgeHours, bool crlRequired);

    error NotApproved(bytes32 workload);
    error StatusNeverAllowed(uint8 statuses);

    /// @dev Starts as the edge's default policy: up to date or in need of software hardening, evaluation 17, collateral at most 14 days old.
    constructor(address owner) Ownable(owner) {
        tcbRules.statuses = 3;
        tcbRules.minEvaluation = 17;
        tcbRules.maxCollateralAgeHours = 14 * 24;
        tcbRules.crlRequired = true;
    }

    /// @notice Lets a workload register, or takes up one that was stopped.
    function approve(bytes32 workload) external onlyOwner {
        uint16 index = workloads[workload].index;
        if (index == 0) index = ++last;
        else if (!workloads[workload].approved) suspensions[index].reinstatedAt = uint64(block.timestamp);
        workloads[workload] = Workload(index, true);
        setApproval(index, true);
        emit Approved(workload, index);
    }

    /// @notice Stops a workload: its runners can neither register nor settle until it is approved again. Approved again within the
    ///         `APPEAL_WINDOW`, work whose time to be claimed ran out meanwhile can be claimed for `REINSTATED_WINDOW` more.
    function revoke(bytes32 workload) external onlyOwner {
        require(workloads[workload].approved, NotApproved(workload));
        uint16 index = workloads[workload].index;
        workloads[workload].approved = false;
        suspensions[index] = Suspension(uint64(block.timestamp), 0);
        setApproval(index, false);
        emit Revoked(workload, index);
    }

    /// @notice Ends every registration made so far and every nonce drawn so far; each runner has to attest again.
    function kill() external onlyOwner {
        standing.killedAt = uint32(block.timestamp);
        tcbRules.killedBlock = uint32(block.number);
        emit Killed(++standing.policyEpoch, uint40(block.timestamp));
        tell(abi.encodeCall(IFollowsStandings.followStanding, ()));
    }

    /// @notice Sets how current a platform and its collateral must be. Revoked and unsupported platforms can never be allowed.
    function setTcbRules(uint8 statuses, uint16 minEvaluation, uint16 maxCollateralAgeHours, bool crlRequired)
        external
        onlyOwner
    {
        require(statuses < 1 << 6, StatusNeverAllowed(statuses));
        tcbRules.statuses = statuses;
        tcbRules.minEvaluation = minEvaluation;
        tcbRules.maxCollateralAgeHours = maxCollateralAgeHours;
        tcbRules.crlRequired = crlRequired;
        emit TcbRulesSet(statuses, minEvaluation, maxCollateralAgeHours, crlRequired);
    }

    /// @notice Counts the pulls of the kill switch.
    function policyEpoch() external view returns (uint16) {
        return standing.policyEpoch;
    }

    /// @dev Tells until when a claim can still be made whose time ran out at `lapsed`, because its workload was stopped then and taken up
    ///      again in time; zero where it was not. The last suspension counts.
    function appealUntil(uint16 index, uint256 lapsed) internal view returns (uint256) {
        Suspension memory suspension = suspensions[index];
        bool stopped = suspension.revokedAt <= lapsed;
        // Only what was stopped is ever taken up again.
        bool lifted = suspension.reinstatedAt != 0 && suspension.reinstatedAt <= suspension.revokedAt + APPEAL_WINDOW;
        return stopped && lifted ? suspension.reinstatedAt + REINSTATED_WINDOW : 0;
    }

    function setApproval(uint16 index, bool value) private {
        if (index < PACKED) {
            uint208 bit = uint208(1) << index;
            standing.approvals = value ? standing.approvals | bit : standing.approvals & ~bit;
            tell(abi.encodeCall(IFollowsStandings.followStanding, ()));
        } else {
            uint256 bit = 1 << (index & 0xff);
            uint256 page = laterApprovals[index >> 8];
            laterApprovals[index >> 8] = value ? page | bit : page & ~bit;
            tell(abi.encodeCall(IFollowsStandings.followApprovals, (index >> 8)));
        }
    }

    /// @dev Tells whoever follows what stands that it has changed.
    function tell(bytes memory change) internal virtual {}
}
