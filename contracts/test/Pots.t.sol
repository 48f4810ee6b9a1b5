// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ToldRegistry, ToldSetup} from "./Standings.t.sol";
import {Escrow} from "../Escrow.sol";
import {Protocol} from "../Protocol.sol";

/// @notice Attacks the pots: what is in one goes to its runner's provider and nobody else, and what it remembers of the runner is worth
///         no more than the registry's word.
contract PotsTest is ToldSetup {
    uint256 private constant SECOND = 0xA11CF;
    address private constant OTHER_PROVIDER = address(0x2001);

    ToldRegistry private registry;
    uint128 private next = 1;

    function setUp() public {
        registry = deployTold();
        fund(1_000_000);
        registry.set(vm.addr(RUNNER), PROVIDER, uint32(NOW - 60), uint32(NOW + 600), 1);
        registry.set(vm.addr(SECOND), OTHER_PROVIDER, uint32(NOW - 60), uint32(NOW + 600), 1);
    }

    /// @dev A new channel of work worth `amount`, finished at a time, at a royalty.
    function work(uint256 runner, uint128 amount, uint64 finishedAt, uint16 royaltyBps) private returns (Item memory one) {
        one = item(amount, finishedAt);
        one.terms.runner = vm.addr(runner);
        one.terms.royaltyBps = royaltyBps;
        one.terms.salt = bytes32(uint256(next++));
        one.terms.expiresAt = NOW + 1 days;
    }

    /// @dev Packs claims of one runner, each as a listing of its own.
    function apart(uint256 runner, Item[] memory items) private view returns (bytes memory out) {
        bytes32 domain = escrow.domainSeparator();
        bytes32[] memory leaves = new bytes32[](items.length);
        for (uint256 i = 0; i < items.length; i++) {
            leaves[i] = harness.leaf(harness.channelOf(domain, items[i].terms), items[i].receipt);
            out = abi.encodePacked(out, group(items[i].terms, 1), body(items[i]));
        }
        bytes memory signature =
            signCompact(runner, Protocol.batchDigest(domain, harness.merkleRoot(leaves), uint32(items.length)));
        out = abi.encodePacked(vm.addr(runner), signature, uint16(items.length), uint8(items.length), uint8(0), out);
    }

    function assertEnds(uint256 runner, Item memory one, Escrow.Status expected) private {
        Item[] memory items = new Item[](1);
        items[0] = one;
        bytes memory claims = apart(runner, items);
        (Escrow.Status[] memory foreseen,) = escrow.preview(claims);
        assertStatus(foreseen[0], expected);
        assertStatus(escrow.settleChannels(claims)[0], expected);
    }

    function assertPaid(uint64 finishedAt, uint16 royaltyBps) private {
        assertEnds(RUNNER, work(RUNNER, 100, finishedAt, royaltyBps), Escrow.Status.Settled);
    }

    function assertInactive(uint64 finishedAt, uint16 royaltyBps) private {
        assertEnds(RUNNER, work(RUNNER, 100, finishedAt, royaltyBps), Escrow.Status.RunnerInactive);
    }

    function held(uint256 runner, uint16 royaltyBps) private view returns (uint256) {
        return escrow.pots(escrow.potId(vm.addr(runner), PUBLISHER, royaltyBps));
    }

    function assertNothingIn(address runner, address publisher, uint16 royaltyBps) private {
        bytes memory call = abi.encodeCall(Escrow.distribute, (runner, publisher, royaltyBps));
        assertFails(address(this), call, Escrow.NothingToWithdraw.selector);
    }

    // Whose a pot is

    function test_aPotGoesToItsRunnersProvider_andNobodyElse() public {
        assertEnds(RUNNER, work(RUNNER, 1_000, NOW, 1_000), Escrow.Status.Settled);
        assertEnds(SECOND, work(SECOND, 2_000, NOW, 1_000), Escrow.Status.Settled);
        assertEq(held(RUNNER, 1_000), 1_000);
        assertEq(held(SECOND, 1_000), 2_000);
        // Named by the provider, by another publisher, at another royalty, there is no such pot.
        assertNothingIn(PROVIDER, PUBLISHER, 1_000);
        assertNothingIn(vm.addr(RUNNER), OTHER_PROVIDER, 1_000);
        assertNothingIn(vm.addr(RUNNER), PUBLISHER, 999);
        assertNothingIn(PUBLISHER, vm.addr(RUNNER), 1_000);

        vm.prank(OTHER_PROVIDER);
        escrow.distribute(vm.addr(RUNNER), PUBLISHER, 1_000);
        assertEq(escrow.earnings(PROVIDER), 890);
        assertEq(escrow.earnings(OTHER_PROVIDER), 0);
        assertEq(escrow.earnings(PUBLISHER), 100);
        assertEq(escrow.earnings(TREASURY), 10);
        assertNothingIn(vm.addr(RUNNER), PUBLISHER, 1_000);
        assertEq(held(SECOND, 1_000), 2_000);
        escrow.distribute(vm.addr(SECOND), PUBLISHER, 1_000);
        assertEq(escrow.earnings(PROVIDER), 890);
        assertEq(escrow.earnings(OTHER_PROVIDER), 1_780);
    }

    function test_severalPotsAtOnce_emptyOnesAndTwiceNamedPassedOver() public {
        assertPaid(NOW, 0);
        assertPaid(NOW, 1_000);
        assertEnds(SECOND, work(SECOND, 1_000, NOW, 1_000), Escrow.Status.Settled);
        Escrow.PotName[] memory names = new Escrow.PotName[](5);
        names[0] = Escrow.PotName(vm.addr(RUNNER), PUBLISHER, 2_000);
        names[1] = Escrow.PotName(vm.addr(RUNNER), PUBLISHER, 1_000);
        names[2] = Escrow.PotName(vm.addr(SECOND), PUBLISHER, 1_000);
        names[3] = Escrow.PotName(vm.addr(RUNNER), PUBLISHER, 1_000);
        names[4] = Escrow.PotName(vm.addr(RUNNER), PUBLISHER, 0);
        escrow.distributeMany(names);
        assertEq(escrow.earnings(PROVIDER), 99 + 89);
        assertEq(escrow.earnings(OTHER_PROVIDER), 890);
        assertEq(escrow.earnings(PUBLISHER), 10 + 100);
        assertEq(escrow.earnings(TREASURY), 1 + 1 + 10);
        assertEq(held(RUNNER, 0) + held(RUNNER, 1_000) + held(SECOND, 1_000), 0);
        escrow.distributeMany(names);
        assertEq(escrow.earnings(PROVIDER), 99 + 89);
    }

    /// @dev A key that named nobody could still name anybody: until it does, nothing is paid for its work.
    function test_aRunnerWithoutAProviderFillsNoPot() public {
        registry.set(vm.addr(RUNNER), address(0), uint32(NOW - 60), uint32(NOW + 600), 1);
        Item memory one = work(RUNNER, 100, NOW, 1_000);
        assertEnds(RUNNER, one, Escrow.Status.RunnerInactive);
        assertEq(held(RUNNER, 1_000), 0);
        registry.set(vm.addr(RUNNER), PROVIDER, uint32(NOW - 60), uint32(NOW + 600), 1);
        assertEnds(RUNNER, one, Escrow.Status.Settled);
    }

    // What a pot remembers

    function test_everyListingAsksOnce_alsoAfterItWasDivided() public {
        // Two listings, and the provider once.
        vm.expectCall(address(registry), abi.encodeWithSignature("runners(address)"), 6);
        for (uint256 i = 0; i < 3; i++) {
            // A preview asks as the first settlement does.
            assertPaid(NOW, 1_000);
            assertPaid(NOW, 2_000);
            if (i == 1) escrow.distribute(vm.addr(RUNNER), PUBLISHER, 1_000);
            if (i == 1) escrow.distribute(vm.addr(RUNNER), PUBLISHER, 2_000);
        }
        assertEq(held(RUNNER, 1_000), 100);
    }

    function test_listingsOfOneTransactionAskOnceTogether() public {
        Item[] memory items = new Item[](3);
        for (uint256 i = 0; i < 3; i++) items[i] = work(RUNNER, 100, NOW, uint16(i));
        bytes memory claims = apart(RUNNER, items);
        vm.expectCall(address(registry), abi.encodeWithSignature("runners(address)"), 1);
        escrow.settleChannels(claims);
        for (uint256 i = 0; i < 3; i++) assertEq(held(RUNNER, uint16(i)), 100);
        // And each of their pots remembers it.
        for (uint256 i = 0; i < 3; i++) items[i] = work(RUNNER, 100, NOW, uint16(i));
        escrow.settleChannels(apart(RUNNER, items));
        for (uint256 i = 0; i < 3; i++) assertEq(held(RUNNER, uint16(i)), 200);
    }

    /// @dev What one pot remembers is worth nothing in another, nor what another runner's does.
    function test_onePotsMemoryIsNoOthers() public {
        assertPaid(NOW, 1_000);
        registry.set(vm.addr(RUNNER), PROVIDER, uint32(NOW + 1), uint32(NOW + 1), 2);
        assertPaid(NOW - 360, 1_000);
        assertInactive(NOW - 360, 2_000);
        registry.set(vm.addr(SECOND), OTHER_PROVIDER, 0, 0, 0);
        assertEnds(SECOND, work(SECOND, 100, NOW, 1_000), Escrow.Status.RunnerInactive);
    }

    function test_aClaimThatIsRefusedTeachesThePotNothing() public {
        Item memory one = work(RUNNER, 100, NOW, 1_000);
        one.signer = KEY;
        assertEnds(RUNNER, one, Escrow.Status.BadVoucher);
        registry.set(vm.addr(RUNNER), PROVIDER, 0, 0, 0);
        one.signer = BUYER;
        assertEnds(RUNNER, one, Escrow.Status.RunnerInactive);
    }

    function test_aStoppedWorkloadHoldsInEveryPot_untilItIsApprovedAgain() public {
        assertPaid(NOW, 1_000);
        assertPaid(NOW, 2_000);
        registry.revoke(bytes32(uint256(1)));
        assertInactive(NOW, 1_000);
        assertInactive(NOW, 2_000);
        assertInactive(NOW, 3_000);
        registry.approve(bytes32(uint256(1)));
        assertPaid(NOW, 1_000);
        assertPaid(NOW, 3_000);
    }

    function test_theKillSwitchHoldsInEveryPot_forEver() public {
        assertPaid(NOW, 1_000);
        assertPaid(NOW, 2_000);
        registry.kill();
        assertInactive(NOW, 1_000);
        assertInactive(NOW, 2_000);
        registry.revoke(bytes32(uint256(1)));
        registry.approve(bytes32(uint256(1)));
        assertInactive(NOW, 1_000);
        vm.warp(NOW + 10);
        registry.set(vm.addr(RUNNER), PROVIDER, uint32(NOW + 1), uint32(NOW + 600), 1);
        assertPaid(NOW + 2, 1_000);
        // The other pot still has the memory of before, and it is worth nothing.
        assertInactive(NOW - 300, 2_000);
        assertPaid(NOW - 299, 2_000);
    }

    /// @dev A registration after a gap begins anew; each listing's pot remembers the attestation its own last settlement rested on.
    function test_aRegistrationAfterAGap_listingByListing() public {
        assertPaid(NOW, 1_000);
        assertPaid(NOW, 2_000);
        vm.warp(NOW + 2_000);
        registry.set(vm.addr(RUNNER), PROVIDER, uint32(NOW + 1_900), uint32(NOW + 3_000), 2);
        assertPaid(NOW + 1_900, 1_000);
        assertEq(held(RUNNER, 1_000), 200);
        assertInactive(NOW + 600, 1_000);
        assertPaid(NOW + 600, 2_000);
        assertInactive(NOW + 601, 2_000);
        assertInactive(NOW + 600, 3_000);
        assertPaid(NOW + 1_900, 2_000);
        assertInactive(NOW + 600, 2_000);
        // The newer workload stopped, nothing of what is remembered stands.
        registry.revoke(bytes32(uint256(2)));
        assertInactive(NOW + 1_900, 1_000);
        assertInactive(NOW + 1_900, 2_000);
        assertEq(held(RUNNER, 1_000), 200);
        assertEq(held(RUNNER, 2_000), 300);
    }

    /// @dev Work of both attestations in one listing is paid for in one transaction; the pot remembers the newer.
    function test_workOfTwoAttestationsTogether() public {
        assertPaid(NOW, 1_000);
        vm.warp(NOW + 2_000);
        registry.set(vm.addr(RUNNER), PROVIDER, uint32(NOW + 1_900), uint32(NOW + 3_000), 2);
        Item[] memory items = new Item[](3);
        uint64[3] memory times = [NOW + 1_900, NOW + 600, NOW + 601];
        for (uint256 i = 0; i < 3; i++) items[i] = work(RUNNER, 100, times[i], 1_000);
        Escrow.Status[] memory got = escrow.settleChannels(packed(items));
        assertStatus(got[0], Escrow.Status.Settled);
        assertStatus(got[1], Escrow.Status.Settled);
        assertStatus(got[2], Escrow.Status.RunnerInactive);
        assertEq(held(RUNNER, 1_000), 300);
        assertInactive(NOW + 600, 1_000);
    }

    // What a pot can hold

    /// @dev Deposits of a token with a huge supply, together far above what one of them can be, fill the amount and nothing beside it.
    function test_noSumReachesTheAttestation() public {
        // More than 2^128, which no single balance and no single payment is.
        uint256 buyers = 260;
        uint256 most = type(uint120).max;
        token.mint(address(this), buyers * most);
        uint256 sum = 0;
        vm.expectCall(address(registry), abi.encodeWithSignature("runners(address)"), 2);
        for (uint256 i = 0; i < buyers; i++) {
            Item memory one = work(RUNNER, uint128(most), NOW, 1_000);
            one.signer = 0xB000 + i;
            one.terms.buyer = vm.addr(one.signer);
            escrow.deposit(one.terms.buyer, most);
            Item[] memory items = new Item[](1);
            items[0] = one;
            assertStatus(escrow.settleChannels(packed(items))[0], Escrow.Status.Settled);
            sum += most;
        }
        require(sum > type(uint128).max, "not enough");
        assertEq(held(RUNNER, 1_000), sum);
        escrow.distribute(vm.addr(RUNNER), PUBLISHER, 1_000);
        assertEq(escrow.earnings(PROVIDER) + escrow.earnings(PUBLISHER) + escrow.earnings(TREASURY), sum);
        assertEq(held(RUNNER, 1_000), 0);
    }

    // What a preview says

    /// @dev Of claims that do not touch each other a preview says what settling does, whatever each pot remembers.
    function test_aPreviewOfSeveralListingsIsWhatSettlingDoes() public {
        assertPaid(NOW, 2_000);
        vm.warp(NOW + 2_000);
        registry.set(vm.addr(RUNNER), PROVIDER, uint32(NOW + 1_900), uint32(NOW + 3_000), 2);
        Item[] memory items = new Item[](4);
        items[0] = work(RUNNER, 100, NOW, 1_000);
        items[1] = work(RUNNER, 200, NOW, 2_000);
        items[2] = work(RUNNER, 300, NOW + 1_900, 3_000);
        items[3] = work(RUNNER, 400, NOW + 1_900, 4_000);
        bytes memory claims = apart(RUNNER, items);
        (Escrow.Status[] memory foreseen, uint128[] memory amounts) = escrow.preview(claims);
        Escrow.Status[] memory got = escrow.settleChannels(claims);
        uint128[4] memory expected = [uint128(0), 200, 300, 400];
        for (uint256 i = 0; i < 4; i++) {
            assertStatus(foreseen[i], got[i]);
            assertEq(amounts[i], expected[i]);
        }
        assertStatus(got[0], Escrow.Status.RunnerInactive);
        assertEq(held(RUNNER, 2_000), 300);
    }
}
