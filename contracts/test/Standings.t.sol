// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {RefusalSetup} from "./Refusals.t.sol";
import {Escrow} from "../Escrow.sol";
import {MeasurementPolicy} from "../MeasurementPolicy.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";

/// @dev A policy that tells an escrow what a registry tells it, and says of runners what a test writes.
contract ToldRegistry is MeasurementPolicy {
    struct Told {
        address provider;
        uint32 registeredAt;
        uint32 validUntil;
        uint16 workloadIndex;
        uint8 tee;
        uint8 status;
    }

    uint256 public constant CLOCK_SKEW = 5 minutes;
    mapping(address runner => Told) public runners;
    uint256 public asked;
    address private follower;

    constructor() MeasurementPolicy(msg.sender) {}

    function set(address runner, address provider, uint32 registeredAt, uint32 validUntil, uint16 index) external {
        runners[runner] = Told(provider, registeredAt, validUntil, index, 0, 0);
    }

    function follow(address escrow) external {
        follower = escrow;
    }

    function claimableUntil(address, uint256) external pure returns (uint256) {
        return 0;
    }

    function tell(bytes memory change) internal override {
        (bool heard,) = follower.call(change);
        require(heard, "not heard");
    }
}

/// @notice Sets up an escrow that follows a registry which is told who is attested, with three workloads approved.
abstract contract ToldSetup is RefusalSetup {
    function deployTold() internal returns (ToldRegistry registry) {
        deploy(100);
        registry = new ToldRegistry();
        for (uint256 n = 1; n < 4; n++) registry.approve(bytes32(n));
        escrow = new Escrow(token, RunnerRegistry(address(registry)), TREASURY, GUARDIAN, 100, 1 days);
        registry.follow(address(escrow));
        token.approve(address(escrow), type(uint256).max);
    }
}

/// @notice Checks that what the policy ends is ended in the escrow at once, and what the escrow remembers of a runner is worth no more than that.
contract StandingsTest is RefusalSetup {
    ToldRegistry private registry;
    uint128 private next = 1;

    function setUp() public {
        deploy(100);
        registry = new ToldRegistry();
        for (uint256 n = 1; n <= 300; n++) registry.approve(bytes32(n));
        // What was approved before the escrow stood is read when it is made, of later pages when somebody asks.
        escrow = new Escrow(token, RunnerRegistry(address(registry)), TREASURY, GUARDIAN, 100, 1 days);
        escrow.followApprovals(0);
        escrow.followApprovals(1);
        registry.follow(address(escrow));
        token.approve(address(escrow), type(uint256).max);
        fund(1_000);
        attest(NOW - 60, NOW + 600, 1);
    }

    function attest(uint64 from, uint64 until, uint16 index) private {
        registry.set(vm.addr(RUNNER), PROVIDER, uint32(from), uint32(until), index);
    }

    /// @dev Settles a new channel of work finished at a time.
    function assertEnds(uint64 finishedAt, Escrow.Status expected) private {
        Item memory one = item(next++, finishedAt);
        one.terms.expiresAt = NOW + 1 days;
        assertEq(uint256(escrow.settleChannels(packed(one))[0]), uint256(expected));
    }

    function test_theRegistryIsAskedOnce() public {
        vm.expectCall(address(registry), abi.encodeWithSignature("runners(address)"), 1);
        assertEnds(NOW, Escrow.Status.Settled);
        assertEnds(NOW - 360, Escrow.Status.Settled);
        assertEnds(NOW + 300, Escrow.Status.Settled);
    }

    function test_aPreviewRemembersNothing() public {
        vm.expectCall(address(registry), abi.encodeWithSignature("runners(address)"), 2);
        escrow.preview(packed(item(next, NOW)));
        assertEnds(NOW, Escrow.Status.Settled);
    }

    function test_theKillSwitchHoldsAtOnce() public {
        assertEnds(NOW, Escrow.Status.Settled);
        registry.kill();
        assertEnds(NOW, Escrow.Status.RunnerInactive);
        vm.warp(NOW + 10);
        attest(NOW + 1, NOW + 600, 1);
        assertEnds(NOW + 2, Escrow.Status.Settled);
        // Work of before is within the skew of the new registration, or lost.
        assertEnds(NOW - 299, Escrow.Status.Settled);
        assertEnds(NOW - 300, Escrow.Status.RunnerInactive);
    }

    function test_aStoppedWorkloadHoldsAtOnce_onEveryPage() public {
        uint16[5] memory watched = [1, 207, 208, 255, 300];
        for (uint256 i = 0; i < 5; i++) {
            attest(NOW - 60, NOW + 600, watched[i]);
            registry.kill();
            vm.warp(NOW + i + 1);
            attest(uint64(NOW + i + 1), NOW + 600, watched[i]);
            assertEnds(NOW, Escrow.Status.Settled);
            registry.revoke(bytes32(uint256(watched[i])));
            assertEnds(NOW, Escrow.Status.RunnerInactive);
            registry.revoke(bytes32(uint256(2 + i)));
            registry.approve(bytes32(uint256(watched[i])));
            assertEnds(NOW, Escrow.Status.Settled);
        }
    }

    function test_aRenewalIsAskedFor() public {
        assertEnds(NOW, Escrow.Status.Settled);
        vm.warp(NOW + 1_000);
        assertEnds(NOW + 601, Escrow.Status.RunnerInactive);
        attest(NOW - 60, NOW + 2_000, 1);
        assertEnds(NOW + 601, Escrow.Status.Settled);
        assertEnds(NOW, Escrow.Status.Settled);
    }

    /// @dev What a runner did under an attestation that ran out is owed as long as that attestation is remembered, and it still stands.
    function test_aRegistrationAfterAGap() public {
        assertEnds(NOW, Escrow.Status.Settled);
        vm.warp(NOW + 2_000);
        attest(NOW + 1_900, NOW + 3_000, 2);
        assertEnds(NOW + 600, Escrow.Status.Settled);
        assertEnds(NOW + 601, Escrow.Status.RunnerInactive);
        registry.revoke(bytes32(uint256(1)));
        assertEnds(NOW + 600, Escrow.Status.RunnerInactive);
        registry.approve(bytes32(uint256(1)));
        assertEnds(NOW + 600, Escrow.Status.Settled);
        assertEnds(NOW + 1_900, Escrow.Status.Settled);
        assertEnds(NOW + 600, Escrow.Status.RunnerInactive);
    }

    function test_anUnknownRunner() public {
        registry.set(vm.addr(RUNNER), address(0), 0, 0, 0);
        vm.warp(400);
        assertEnds(0, Escrow.Status.RunnerInactive);
        vm.warp(NOW);
        assertEnds(NOW, Escrow.Status.RunnerInactive);
    }

    function test_anyoneMayFollow_andChangesNothing() public {
        assertEnds(NOW, Escrow.Status.Settled);
        registry.revoke(bytes32(uint256(1)));
        escrow.followStanding();
        escrow.followApprovals(7);
        (uint32 killedAt, uint16 epoch, uint208 approvals) = escrow.standing();
        (uint32 killedThere, uint16 epochThere, uint208 approvalsThere) = registry.standing();
        assertEq(keccak256(abi.encode(killedAt, epoch, approvals)), keccak256(abi.encode(killedThere, epochThere, approvalsThere)));
        assertEnds(NOW, Escrow.Status.RunnerInactive);
    }

    /// @dev A change of policy that the escrow cannot follow is refused, rather than not to hold.
    function test_aChangeTheEscrowDoesNotFollowFails() public {
        address deaf = address(0xE5);
        vm.etch(deaf, hex"5f5ffd");
        RunnerRegistry real = new RunnerRegistry(address(this), deaf, address(this), true, 0, 0, 0);
        try real.approve(bytes32(uint256(1))) {
            require(false, "approved");
        } catch (bytes memory reason) {
            assertEq(keccak256(reason), keccak256(abi.encodeWithSelector(RunnerRegistry.EscrowDidNotFollow.selector)));
        }
    }
}
