// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Test} from "./Test.sol";
import {MeasurementPolicy} from "../MeasurementPolicy.sol";

/// @dev Shows what only a registry sees.
contract OpenPolicy is MeasurementPolicy {
    constructor(address owner) MeasurementPolicy(owner) {}

    function approved(uint16 index) external view returns (bool) {
        (,, uint208 approvals) = this.standing();
        return isApproved(index, approvals);
    }

    function appeal(uint16 index, uint256 lapsed) external view returns (uint256) {
        return appealUntil(index, lapsed);
    }
}

/// @notice Checks what the policy's owner can do, that nobody else can, and how far an appeal reaches.
contract PolicyTest is Test {
    uint256 private constant NOW = 1_800_000_000;
    OpenPolicy private policy;

    function setUp() public {
        vm.warp(NOW);
        policy = new OpenPolicy(address(this));
    }

    function workload(uint256 n) private pure returns (bytes32) {
        return bytes32(n);
    }

    function test_strangersCanDoNothing() public {
        bytes[4] memory calls = [
            abi.encodeCall(MeasurementPolicy.approve, (workload(1))),
            abi.encodeCall(MeasurementPolicy.revoke, (workload(1))),
            abi.encodeCall(MeasurementPolicy.kill, ()),
            abi.encodeCall(MeasurementPolicy.setTcbRules, (3, 17, 336, true))
        ];
        for (uint256 i = 0; i < 4; i++) {
            vm.prank(address(9));
            (bool ok, bytes memory reason) = address(policy).call(calls[i]);
            require(!ok, "went through");
            assertEq(
                keccak256(reason), keccak256(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(9)))
            );
        }
    }

    /// @dev Positions 1 to 207 lie in one slot, later ones in pages of 256; none moves another.
    function test_approvalsPastOneSlot() public {
        uint16[7] memory watched = [1, 2, 207, 208, 209, 255, 256];
        for (uint256 n = 1; n <= 260; n++) policy.approve(workload(n));
        for (uint256 i = 0; i < watched.length; i++) {
            policy.revoke(workload(watched[i]));
            for (uint16 index = 1; index <= 260; index++) {
                require(policy.approved(index) == (index != watched[i]), "another moved");
            }
            policy.approve(workload(watched[i]));
        }
        require(!policy.approved(0) && !policy.approved(261), "nobody's position is approved");
    }

    function test_aWorkloadKeepsItsPosition() public {
        policy.approve(workload(1));
        policy.approve(workload(2));
        policy.revoke(workload(1));
        policy.approve(workload(1));
        (uint16 index, bool approved) = policy.workloads(workload(1));
        assertEq(index, 1);
        require(approved, "not approved");
        policy.revoke(workload(1));
        try policy.revoke(workload(1)) {
            require(false, "revoked twice");
        } catch (bytes memory reason) {
            assertEq(keccak256(reason), keccak256(abi.encodeWithSelector(MeasurementPolicy.NotApproved.selector, workload(1))));
        }
    }

    function test_theKillSwitch() public {
        policy.kill();
        vm.warp(NOW + 5);
        policy.kill();
        (uint32 killedAt, uint16 epoch,) = policy.standing();
        assertEq(killedAt, NOW + 5);
        assertEq(epoch, 2);
        assertEq(policy.policyEpoch(), 2);
        (uint32 killedBlock,,,,,,) = policy.tcbRules();
        assertEq(killedBlock, block.number);
    }

    function test_revokedAndUnsupportedPlatformsAreNeverAllowed() public {
        for (uint256 statuses = 64; statuses < 256; statuses += 64) {
            try policy.setTcbRules(uint8(statuses), 17, 336, true) {
                require(false, "allowed");
            } catch (bytes memory reason) {
                assertEq(
                    keccak256(reason), keccak256(abi.encodeWithSelector(MeasurementPolicy.StatusNeverAllowed.selector, statuses))
                );
            }
        }
        policy.setTcbRules(63, 18, 24, false);
        (, uint8 got, uint16 evaluation, uint16 hours_, bool crl,,) = policy.tcbRules();
        assertEq(got, 63);
        assertEq(evaluation, 18);
        assertEq(hours_, 24);
        require(!crl, "list still required");
    }

    function test_anAppealReachesWhatRanOutWhileTheWorkloadWasStopped() public {
        policy.approve(workload(1));
        assertEq(policy.appeal(1, NOW), 0);
        vm.warp(NOW + 10);
        policy.revoke(workload(1));
        assertEq(policy.appeal(1, NOW + 10), 0);
        vm.warp(NOW + 10 + 7 days);
        policy.approve(workload(1));
        uint256 until = NOW + 10 + 8 days;
        assertEq(policy.appeal(1, NOW + 10), until);
        assertEq(policy.appeal(1, NOW + 10 + 7 days), until);
        // What had run out before it was stopped is over.
        assertEq(policy.appeal(1, NOW + 9), 0);
        // Approving what is approved changes nothing.
        vm.warp(NOW + 30 days);
        policy.approve(workload(1));
        assertEq(policy.appeal(1, NOW + 10), until);
        assertEq(policy.appeal(2, NOW + 10), 0);
    }

    function test_anAppealThatCameTooLateReachesNothing() public {
        policy.approve(workload(1));
        policy.revoke(workload(1));
        vm.warp(NOW + 7 days + 1);
        policy.approve(workload(1));
        assertEq(policy.appeal(1, NOW + 1), 0);
        // The last stop counts.
        policy.revoke(workload(1));
        assertEq(policy.appeal(1, NOW + 8 days), 0);
        policy.approve(workload(1));
        assertEq(policy.appeal(1, NOW + 1), 0);
        assertEq(policy.appeal(1, NOW + 8 days), NOW + 8 days + 1);
    }
}
