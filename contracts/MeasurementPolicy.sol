// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

/// @notice Says what may register: workloads, and how current a platform must be. Its owner can do nothing else, and never touches money.
abstract contract MeasurementPolicy is Ownable {
    /// @notice Fills one slot with all that registering and settling read of the policy.
    struct Rules {
        uint32 killedAt; // registrations made up to this time count no more (unix seconds)
        uint32 killedBlock; // nonces up to this block count no more
        uint16 policyEpoch; // how often the kill switch was pulled
        uint16 collateralEpoch; // how often the signer of collateral was revoked
        uint8 statuses; // bit n allows the n-th TCB status, best first
        uint16 minEvaluation; // lowest tcbEvaluationDataNumber
        uint24 maxCollateralAge; // seconds from the issue date
        bool crlRequired; // whether a platform's CA must have a posted revocation list
        uint104 approvals; // bit n: the workload at position n is approved; later positions lie in `laterApprovals`
    }

    uint16 private constant PACKED = 104;

    /// @notice The rules in force.
    Rules public rules;
    /// @notice Position of a workload, from 1; zero when it was never approved.
    mapping(bytes32 workload => uint16) public indexOf;
    mapping(uint256 page => uint256) private laterApprovals;
    uint16 private last;

    event Approved(bytes32 indexed workload, uint16 index);
    event Revoked(bytes32 indexed workload, uint16 index);
    event Killed(uint16 policyEpoch, uint40 at);
    event TcbRulesSet(uint8 statuses, uint16 minEvaluation, uint24 maxCollateralAge, bool crlRequired);

    error NotApproved(bytes32 workload);
    error StatusNeverAllowed(uint8 statuses);

    /// @dev Starts as the edge's default policy: up to date or in need of software hardening, evaluation 17, collateral at most 14 days old.
    constructor(address owner) Ownable(owner) {
        rules.statuses = 3;
        rules.minEvaluation = 17;
        rules.maxCollateralAge = 14 days;
        rules.crlRequired = true;
    }

    /// @notice Lets a workload register.
    function approve(bytes32 workload) external onlyOwner {
        uint16 index = indexOf[workload];
        if (index == 0) {
            index = ++last;
            indexOf[workload] = index;
        }
        setApproval(index, true);
        emit Approved(workload, index);
    }

    /// @notice Stops a workload: its runners can neither register nor settle until it is approved again.
    function revoke(bytes32 workload) external onlyOwner {
        uint16 index = indexOf[workload];
        require(approved(index), NotApproved(workload));
        setApproval(index, false);
        emit Revoked(workload, index);
    }

    /// @notice Ends every registration made so far and every nonce drawn so far; each runner has to attest again.
    function kill() external onlyOwner {
        rules.killedAt = uint32(block.timestamp);
        rules.killedBlock = uint32(block.number);
        emit Killed(++rules.policyEpoch, uint40(block.timestamp));
    }

    /// @notice Sets how current a platform and its collateral must be. Revoked and unsupported platforms can never be allowed.
    function setTcbRules(uint8 statuses, uint16 minEvaluation, uint24 maxCollateralAge, bool crlRequired) external onlyOwner {
        require(statuses < 1 << 6, StatusNeverAllowed(statuses));
        rules.statuses = statuses;
        rules.minEvaluation = minEvaluation;
        rules.maxCollateralAge = maxCollateralAge;
        rules.crlRequired = crlRequired;
        emit TcbRulesSet(statuses, minEvaluation, maxCollateralAge, crlRequired);
    }

    /// @notice Counts the pulls of the kill switch.
    function policyEpoch() external view returns (uint16) {
        return rules.policyEpoch;
    }

    /// @notice Tells whether the workload at a position is approved now.
    function approved(uint16 index) public view returns (bool) {
        return isApproved(index, rules.approvals);
    }

    /// @dev Position 0 is never approved, so a workload nobody approved is refused.
    function isApproved(uint16 index, uint104 approvals) internal view returns (bool) {
        if (index < PACKED) return index != 0 && (approvals >> index) & 1 == 1;
        return (laterApprovals[index >> 8] >> (index & 0xff)) & 1 == 1;
    }

    function setApproval(uint16 index, bool value) private {
        if (index < PACKED) {
            uint104 bit = uint104(1) << index;
            rules.approvals = value ? rules.approvals | bit : rules.approvals & ~bit;
        } else {
            uint256 bit = 1 << (index & 0xff);
            uint256 page = laterApprovals[index >> 8];
            laterApprovals[index >> 8] = value ? page | bit : page & ~bit;
        }
    }
}
