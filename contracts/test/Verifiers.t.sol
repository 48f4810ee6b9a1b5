// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Test} from "./Test.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {VerifierSet} from "../attestation/VerifierSet.sol";

/// @notice Checks that only enough different verifiers of the set in force register a runner, and that a new set takes its time.
contract VerifiersTest is Test {
    uint256 private constant NOW = 1_800_000_000;
    bytes32 private constant WORKLOAD = keccak256("workload");
    address private constant RUNNER = address(0x1003);
    address private constant PROVIDER = address(0x1001);

    RunnerRegistry private registry;
    VerifierSet private set;

    function setUp() public {
        vm.warp(NOW);
        vm.chainId(31337);
        address next = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        bytes memory arguments =
            abi.encode(address(this), address(0xE5C), next, true, bytes32(uint256(1)), bytes32(uint256(2)), bytes32(0));
        registry = RunnerRegistry(vm.deployCode("RunnerRegistry.sol:RunnerRegistry", arguments));
        set = new VerifierSet(address(this), registry, addresses(3), 2);
        assertEq(address(set), next);
        registry.approve(WORKLOAD);
    }

    /// @dev Test keys in the order of their addresses.
    function key(uint256 index) private pure returns (uint256 chosen) {
        uint256 before = 0;
        for (uint256 taken = 0; taken <= index; taken++) {
            uint256 lowest = type(uint256).max;
            for (uint256 candidate = 0xB0; candidate < 0xB6; candidate++) {
                uint256 place = uint160(vm.addr(candidate));
                if (place > before && place < lowest) (lowest, chosen) = (place, candidate);
            }
            before = lowest;
        }
    }

    function addresses(uint256 count) private pure returns (address[] memory all) {
        all = new address[](count);
        for (uint256 i = 0; i < count; i++) all[i] = vm.addr(key(i));
    }

    function verdict() private pure returns (VerifierSet.Verdict memory) {
        return VerifierSet.Verdict(keccak256("evidence"), RUNNER, PROVIDER, WORKLOAD, 2, 0, uint64(NOW + 1 hours), 0);
    }

    function signed(VerifierSet.Verdict memory of_, uint256 one, uint256 other) private view returns (bytes[] memory all) {
        all = new bytes[](2);
        (all[0], all[1]) = (signature(of_, one), signature(of_, other));
    }

    function signature(VerifierSet.Verdict memory of_, uint256 by) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(by, set.digestOf(of_));
        return abi.encodePacked(r, s, v);
    }

    function register(VerifierSet.Verdict memory of_) private {
        set.register(of_, signed(of_, key(0), key(1)));
    }

    function runner() private view returns (RunnerRegistry.Runner memory it) {
        (it.provider, it.registeredAt, it.validUntil, it.workloadIndex, it.tee, it.status) = registry.runners(RUNNER);
    }

    function refused(address callee, bytes memory call, bytes memory with) private {
        (bool ok, bytes memory answer) = callee.call(call);
        require(!ok, "was taken");
        assertEq(keccak256(answer), keccak256(with));
    }

    function refused(VerifierSet.Verdict memory of_, bytes[] memory signatures, bytes memory with) private {
        refused(address(set), abi.encodeCall(set.register, (of_, signatures)), with);
    }

    function refused(VerifierSet.Verdict memory of_, bytes memory with) private {
        refused(of_, signed(of_, key(0), key(1)), with);
    }

    function test_verdict_registersARunner() public {
        register(verdict());
        RunnerRegistry.Runner memory it = runner();
        assertEq(it.provider, PROVIDER);
        assertEq(it.registeredAt, NOW);
        assertEq(it.validUntil, NOW + 1 hours);
        assertEq(it.workloadIndex, 1);
        assertEq(it.tee, 2);
        assertEq(it.status, 0);
        require(registry.isActiveNow(RUNNER), "not active");
    }

    function test_verdict_knowsThreeKindsEachWithAGpuOrWithout() public {
        VerifierSet.Verdict memory of_ = verdict();
        for (uint256 tee = 0; tee < 256; tee++) {
            of_.tee = uint8(tee);
            of_.signer = address(uint160(0x2000 + tee));
            if (tee % 128 > 0 && tee % 128 < 4) register(of_);
            else refused(of_, abi.encodeWithSelector(VerifierSet.UnknownTee.selector, uint8(tee)));
        }
    }

    function test_verdict_neverLongerThanADay() public {
        VerifierSet.Verdict memory of_ = verdict();
        of_.validUntil = uint64(NOW + 1 days);
        register(of_);
        assertEq(runner().validUntil, NOW + 1 days);
        of_.signer = address(0x1004);
        of_.validUntil = type(uint64).max;
        register(of_);
        (,, uint32 until,,,) = registry.runners(of_.signer);
        assertEq(until, NOW + 1 days);
        // Cut to 32 bits this would be a time long past.
        of_.signer = address(0x1005);
        of_.validUntil = 1 << 32;
        register(of_);
        (,, until,,,) = registry.runners(of_.signer);
        assertEq(until, NOW + 1 days);
    }

    function test_verdict_refusesWhatLapsedOrIsNotAllowed() public {
        VerifierSet.Verdict memory of_ = verdict();
        of_.validUntil = uint64(NOW - 1);
        refused(of_, abi.encodeWithSelector(RunnerRegistry.VerdictExpired.selector, uint32(NOW - 1)));
        of_.validUntil = uint64(NOW);
        register(of_);
        of_ = verdict();
        of_.tcbTier = 2;
        refused(of_, abi.encodeWithSelector(RunnerRegistry.StatusNotAllowed.selector, uint8(2)));
        of_.tcbTier = 255;
        refused(of_, abi.encodeWithSelector(RunnerRegistry.StatusNotAllowed.selector, uint8(255)));
        of_ = verdict();
        of_.workload = keccak256("another");
        refused(of_, abi.encodeWithSelector(RunnerRegistry.WorkloadNotApproved.selector, of_.workload));
    }

    function test_verdict_endsWithTheKillSwitch() public {
        registry.kill();
        refused(verdict(), abi.encodeWithSelector(RunnerRegistry.PolicyEpochPassed.selector, uint16(1)));
        VerifierSet.Verdict memory of_ = verdict();
        of_.policyEpoch = 2;
        refused(of_, abi.encodeWithSelector(RunnerRegistry.PolicyEpochPassed.selector, uint16(1)));
        of_.policyEpoch = 1;
        register(of_);
    }

    function test_registry_takesVerdictsOfItsVerifiersOnly() public {
        RunnerRegistry.Runner memory it = RunnerRegistry.Runner(PROVIDER, 0, uint32(NOW + 1), 0, 2, 0);
        refused(
            address(registry),
            abi.encodeCall(registry.registerVerdict, (RUNNER, it, WORKLOAD, 0, bytes32(0))),
            abi.encodeWithSelector(RunnerRegistry.NotTheVerifiers.selector, address(this))
        );
        vm.prank(address(set));
        registry.registerVerdict(RUNNER, it, WORKLOAD, 0, bytes32(0));
        assertEq(runner().validUntil, NOW + 1);
    }

    function test_signatures_enoughOfDifferentVerifiers() public {
        VerifierSet.Verdict memory of_ = verdict();
        bytes[] memory one = new bytes[](1);
        one[0] = signature(of_, key(0));
        refused(of_, one, abi.encodeWithSelector(VerifierSet.TooFewSignatures.selector, 1, 2));
        refused(of_, new bytes[](0), abi.encodeWithSelector(VerifierSet.TooFewSignatures.selector, 0, 2));
        bytes memory twice = abi.encodeWithSelector(VerifierSet.SignersNotAscending.selector, vm.addr(key(0)));
        refused(of_, signed(of_, key(0), key(0)), twice);
        refused(of_, signed(of_, key(1), key(0)), twice);
        bytes[] memory all = new bytes[](3);
        (all[0], all[1], all[2]) = (signature(of_, key(0)), signature(of_, key(1)), signature(of_, key(2)));
        set.register(of_, all);
    }

    function test_signatures_ofNobodyElse() public {
        VerifierSet.Verdict memory of_ = verdict();
        bytes memory stranger = abi.encodeWithSelector(VerifierSet.NotAVerifier.selector, vm.addr(key(4)));
        refused(of_, signed(of_, key(0), key(4)), stranger);
        bytes[] memory all = signed(of_, key(0), key(1));
        all[1] = new bytes(65);
        refused(of_, all, abi.encodeWithSelector(VerifierSet.NotAVerifier.selector, address(0)));
        all[1] = "";
        refused(of_, all, abi.encodeWithSelector(VerifierSet.NotAVerifier.selector, address(0)));
    }

    /// @dev Before any set stands nobody is of it, and the address nobody has a key for never is.
    function test_signatures_neverOfNobody() public {
        require(!set.isVerifier(address(0)), "nobody is a verifier");
        VerifierSet.Verdict memory of_ = verdict();
        bytes[] memory all = new bytes[](2);
        (all[0], all[1]) = (new bytes(65), signature(of_, key(0)));
        refused(of_, all, abi.encodeWithSelector(VerifierSet.NotAVerifier.selector, address(0)));
    }

    function test_signatures_coverEveryField() public {
        bytes[] memory all = signed(verdict(), key(0), key(1));
        for (uint256 field = 0; field < 8; field++) {
            VerifierSet.Verdict memory of_ = verdict();
            if (field == 0) of_.evidenceDigest ^= bytes32(uint256(1));
            if (field == 1) of_.signer = address(0x1004);
            if (field == 2) of_.provider = address(0x1002);
            if (field == 3) of_.workload ^= bytes32(uint256(1));
            if (field == 4) of_.tee = 3;
            if (field == 5) of_.tcbTier = 1;
            if (field == 6) of_.validUntil++;
            if (field == 7) of_.policyEpoch = 1;
            (bool ok, bytes memory answer) = address(set).call(abi.encodeCall(set.register, (of_, all)));
            require(!ok && bytes4(answer) == VerifierSet.NotAVerifier.selector, "was taken");
        }
        vm.chainId(1337);
        (bool elsewhere,) = address(set).call(abi.encodeCall(set.register, (verdict(), all)));
        require(!elsewhere, "was taken on another chain");
    }

    function test_set_isRefusedWhereItsThresholdCannotBeMet() public {
        address[] memory all = addresses(3);
        refused(address(set), abi.encodeCall(set.propose, (all, 0)), abi.encodeWithSelector(VerifierSet.BadThreshold.selector, 0, 3));
        refused(address(set), abi.encodeCall(set.propose, (all, 4)), abi.encodeWithSelector(VerifierSet.BadThreshold.selector, 4, 3));
        set.propose(all, 3);
        address[] memory none = new address[](0);
        refused(address(set), abi.encodeCall(set.propose, (none, 0)), abi.encodeWithSelector(VerifierSet.BadThreshold.selector, 0, 0));
    }

    function test_set_ascendsSoThatNobodyIsInItTwice() public {
        address[] memory all = addresses(3);
        all[1] = all[0];
        bytes memory twice = abi.encodeWithSelector(VerifierSet.VerifiersNotAscending.selector, all[0]);
        refused(address(set), abi.encodeCall(set.propose, (all, 2)), twice);
        (all[0], all[1]) = (vm.addr(key(1)), vm.addr(key(0)));
        refused(address(set), abi.encodeCall(set.propose, (all, 2)), twice);
        all = addresses(3);
        all[0] = address(0);
        bytes memory nobody = abi.encodeWithSelector(VerifierSet.VerifiersNotAscending.selector, address(0));
        refused(address(set), abi.encodeCall(set.propose, (all, 2)), nobody);
        try new VerifierSet(address(this), registry, all, 2) {
            require(false, "was made");
        } catch (bytes memory answer) {
            assertEq(keccak256(answer), keccak256(nobody));
        }
    }

    function test_set_isTheOwnersToPropose() public {
        bytes[3] memory calls = [
            abi.encodeCall(set.propose, (addresses(3), 2)),
            abi.encodeCall(set.cancel, ()),
            abi.encodeCall(set.remove, (vm.addr(key(0))))
        ];
        for (uint256 i = 0; i < calls.length; i++) {
            vm.prank(address(9));
            refused(
                address(set), calls[i], abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(9))
            );
        }
    }

    function rotation(uint256 count, uint256 threshold) private view returns (bytes memory) {
        return abi.encodeCall(set.rotate, (addresses(count), threshold));
    }

    function test_set_takesOverAfterTheDelay() public {
        bytes memory none = abi.encodePacked(VerifierSet.NotProposed.selector);
        refused(address(set), rotation(4, 3), none);
        refused(address(set), abi.encodeCall(set.cancel, ()), none);
        set.propose(addresses(4), 3);
        assertEq(set.proposedFor(), NOW + 2 days);
        refused(address(set), rotation(4, 2), none);
        refused(address(set), rotation(5, 3), none);
        bytes memory early = abi.encodeWithSelector(VerifierSet.RotationTooEarly.selector, NOW + 2 days);
        refused(address(set), rotation(4, 3), early);
        vm.warp(NOW + 2 days - 1);
        refused(address(set), rotation(4, 3), early);
        vm.warp(NOW + 2 days);
        vm.prank(address(9));
        set.rotate(addresses(4), 3);
        assertEq(set.count(), 4);
        assertEq(set.threshold(), 3);
        require(set.isVerifier(vm.addr(key(3))), "the new one is not in");
        refused(address(set), rotation(4, 3), none);
        VerifierSet.Verdict memory of_ = verdict();
        of_.validUntil = uint64(NOW + 2 days + 1 hours);
        refused(of_, abi.encodeWithSelector(VerifierSet.TooFewSignatures.selector, 2, 3));
    }

    function test_set_leavesNobodyOfTheOldOneIn() public {
        address[] memory other = new address[](1);
        other[0] = vm.addr(key(4));
        set.propose(other, 1);
        vm.warp(NOW + 2 days);
        set.rotate(other, 1);
        for (uint256 i = 0; i < 4; i++) require(!set.isVerifier(vm.addr(key(i))), "the old one is in");
        bytes memory stranger = abi.encodeWithSelector(VerifierSet.NotAVerifier.selector, vm.addr(key(0)));
        refused(verdict(), stranger);
    }

    function test_set_canBeWithdrawn() public {
        set.propose(addresses(4), 3);
        set.cancel();
        assertEq(set.proposed(), bytes32(0));
        vm.warp(NOW + 3 days);
        refused(address(set), rotation(4, 3), abi.encodePacked(VerifierSet.NotProposed.selector));
    }

    function test_set_loseAMemberAtOnce() public {
        address out = vm.addr(key(1));
        set.remove(out);
        assertEq(set.count(), 2);
        assertEq(set.threshold(), 2);
        bytes memory stranger = abi.encodeWithSelector(VerifierSet.NotAVerifier.selector, out);
        refused(verdict(), stranger);
        refused(address(set), abi.encodeCall(set.remove, (out)), stranger);
        set.register(verdict(), signed(verdict(), key(0), key(2)));
    }
}
