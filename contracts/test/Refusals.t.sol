// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {EscrowSetup} from "./Escrow.t.sol";
import {TollToken} from "./Stake.t.sol";
import {Claims} from "../Claims.sol";
import {Escrow} from "../Escrow.sol";
import {Protocol, Receipt, Terms} from "../Protocol.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {TestToken} from "../TestToken.sol";

/// @dev Answers as a registry in which every runner was attested from one time to another.
contract AttestedBetween {
    address private immutable provider;
    uint64 private immutable from;
    uint64 private immutable until;
    uint256 private appeal;

    constructor(address provider_, uint64 from_, uint64 until_) {
        (provider, from, until) = (provider_, from_, until_);
    }

    function runners(address) external view returns (address, uint32, uint32, uint16, uint8, uint8) {
        return (provider, uint32(from + 5 minutes), uint32(until), 1, 0, 0);
    }

    function standing() external pure returns (uint32, uint16, uint208) {
        return (0, 0, 2);
    }

    function CLOCK_SKEW() external pure returns (uint256) {
        return 5 minutes;
    }

    function reinstate(uint256 until_) external {
        appeal = until_;
    }

    function claimableUntil(address, uint256) external view returns (uint256) {
        return appeal;
    }
}

abstract contract RefusalSetup is EscrowSetup {
    uint64 internal constant NOW = 1_800_000_000;
    uint256 internal constant KEY = 0x4E7;

    struct Item {
        Terms terms;
        Receipt receipt;
        uint128 voucher;
        uint8 kind;
        uint256 signer;
    }

    function deployBetween(uint64 from, uint64 until) internal returns (address registry) {
        deploy(100);
        registry = address(new AttestedBetween(PROVIDER, from, until));
        escrow = new Escrow(token, RunnerRegistry(registry), TREASURY, GUARDIAN, 100, 1 days);
        token.approve(address(escrow), type(uint256).max);
        fund(1_000);
    }

    function item(uint128 cumulative, uint64 finishedAt) internal view returns (Item memory) {
        Terms memory terms = termsOf(1_000, bytes32(uint256(cumulative)));
        terms.expiresAt = NOW + 1 hours;
        return Item(terms, Receipt(1, 0, cumulative, finishedAt, bytes32(0)), cumulative, 0, BUYER);
    }

    function body(Item memory it) internal view returns (bytes memory) {
        bytes32 domain = escrow.domainSeparator();
        bytes memory voucher =
            signCompact(it.signer, Protocol.voucherDigest(domain, harness.channelOf(domain, it.terms), it.voucher));
        return abi.encodePacked(
            abi.encodePacked(it.kind, it.terms.buyer, it.terms.expiresAt, it.terms.salt),
            abi.encodePacked(
                it.receipt.job, it.receipt.status, it.receipt.cumulative, it.receipt.finishedAt, it.receipt.detail
            ),
            it.voucher,
            voucher
        );
    }

    function group(Terms memory terms, uint16 claims) internal pure returns (bytes memory) {
        return abi.encodePacked(terms.model, terms.publisher, terms.price, terms.royaltyBps, claims);
    }

    /// @dev Packs claims of one listing, signed as one batch.
    function packed(Item[] memory items) internal view returns (bytes memory out) {
        bytes32 domain = escrow.domainSeparator();
        bytes32[] memory leaves = new bytes32[](items.length);
        for (uint256 i = 0; i < items.length; i++) {
            leaves[i] = harness.leaf(harness.channelOf(domain, items[i].terms), items[i].receipt);
            out = abi.encodePacked(out, body(items[i]));
        }
        bytes32 root = harness.merkleRoot(leaves);
        bytes memory signature = signCompact(RUNNER, Protocol.batchDigest(domain, root, uint32(items.length)));
        out = abi.encodePacked(
            vm.addr(RUNNER), signature, uint16(items.length), uint8(1), uint8(0), group(items[0].terms, uint16(items.length)), out
        );
    }

    function packed(Item memory one) internal view returns (bytes memory) {
        Item[] memory items = new Item[](1);
        items[0] = one;
        return packed(items);
    }

    function assertStatus(Escrow.Status got, Escrow.Status expected) internal pure {
        assertEq(uint256(got), uint256(expected));
    }

    function assertSettles(Item memory one, Escrow.Status expected) internal {
        bytes memory claims = packed(one);
        (Escrow.Status[] memory foreseen, uint128[] memory amounts) = escrow.preview(claims);
        uint256 before = escrow.settled(harness.channelOf(escrow.domainSeparator(), one.terms));
        assertStatus(escrow.settleChannels(claims)[0], expected);
        assertStatus(foreseen[0], expected);
        assertEq(escrow.settled(harness.channelOf(escrow.domainSeparator(), one.terms)) - before, amounts[0]);
    }

    function assertFails(address target, address sender, bytes memory call, bytes memory reason) internal {
        vm.prank(sender);
        (bool ok, bytes memory got) = target.call(call);
        require(!ok, "went through");
        assertEq(keccak256(got), keccak256(reason));
    }

    function assertFails(address sender, bytes memory call, bytes4 reason) internal {
        assertFails(address(escrow), sender, call, abi.encodeWithSelector(reason));
    }
}

/// @notice Refuses claims, each with its own status.
contract ClaimRefusals is RefusalSetup {
    function test_settlesWhatHolds() public {
        deployBetween(NOW - 60, NOW + 60);
        assertSettles(item(100, NOW), Escrow.Status.Settled);
        assertSettles(item(100, NOW), Escrow.Status.NothingNew);
    }

    function test_aBatchSignedByAnother_orByNobody() public {
        deployBetween(NOW - 60, NOW + 60);
        Item memory one = item(100, NOW);
        bytes memory claims = packed(one);
        claims[20] ^= 0x01;
        assertStatus(escrow.settleChannels(claims)[0], Escrow.Status.BadReceipt);
        for (uint256 i = 20; i < 84; i++) claims[i] = 0;
        assertStatus(escrow.settleChannels(claims)[0], Escrow.Status.BadReceipt);
        // Nor a runner that is nobody.
        for (uint256 i = 0; i < 20; i++) claims[i] = 0;
        assertStatus(escrow.settleChannels(claims)[0], Escrow.Status.BadReceipt);
    }

    /// @dev The same signature in its other form (EIP-2) is none.
    function test_aSignatureInItsOtherForm() public {
        deployBetween(NOW - 60, NOW + 60);
        bytes memory claims = packed(item(100, NOW));
        assembly {
            let at := add(claims, 0x54)
            let vs := mload(at)
            let s := and(vs, sub(shl(255, 1), 1))
            s := sub(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141, s)
            // A high s has its highest bit where the parity lies, unless the low one is just below the half.
            mstore(at, or(shl(255, iszero(shr(255, vs))), and(s, sub(shl(255, 1), 1))))
        }
        assertStatus(escrow.settleChannels(claims)[0], Escrow.Status.BadReceipt);
    }

    function test_aRoyaltyAndAFeeAboveTheWhole() public {
        deployBetween(NOW - 60, NOW + 60);
        Item memory one = item(100, NOW);
        one.terms.royaltyBps = 9_901;
        assertSettles(one, Escrow.Status.BadTerms);
        one.terms.royaltyBps = 9_900;
        assertSettles(one, Escrow.Status.Settled);
    }

    function test_workDoneAfterItsTerms_andClaimsAfterTheirWindow() public {
        AttestedBetween registry = AttestedBetween(deployBetween(NOW - 1 days, NOW + 2 days));
        Item memory one = item(100, NOW + 1 hours + 1);
        vm.warp(NOW + 1 hours + 1);
        assertSettles(one, Escrow.Status.Expired);
        one.receipt.finishedAt = NOW + 1 hours;
        vm.warp(NOW + 1 hours + 1 days + 1);
        assertSettles(one, Escrow.Status.Expired);
        registry.reinstate(NOW + 1 hours + 1 days);
        assertSettles(one, Escrow.Status.Expired);
        vm.warp(NOW + 1 hours + 1 days);
        assertSettles(one, Escrow.Status.Settled);
        one = item(200, NOW);
        registry.reinstate(NOW + 9 days);
        vm.warp(NOW + 9 days);
        assertSettles(one, Escrow.Status.Settled);
        one = item(300, NOW);
        vm.warp(NOW + 9 days + 1);
        assertSettles(one, Escrow.Status.Expired);
    }

    function test_workOutsideTheAttestation_orInTheFuture() public {
        deployBetween(NOW - 60, NOW + 900);
        assertSettles(item(1, NOW - 61), Escrow.Status.RunnerInactive);
        assertSettles(item(2, NOW + 301), Escrow.Status.RunnerInactive);
        assertSettles(item(3, 0), Escrow.Status.RunnerInactive);
        assertSettles(item(4, NOW - 60), Escrow.Status.Settled);
        assertSettles(item(5, NOW + 300), Escrow.Status.Settled);
        vm.warp(NOW + 1_000);
        assertSettles(item(6, NOW + 901), Escrow.Status.RunnerInactive);
    }

    /// @dev The registry is asked once for all claims of a batch, and not at all for times it has answered for before.
    function test_workOutsideTheAttestationBesideWorkInside() public {
        address registry = deployBetween(NOW - 60, NOW + 60);
        Item[] memory items = new Item[](5);
        uint64[5] memory times = [NOW - 50, NOW + 50, NOW, NOW - 61, NOW + 61];
        for (uint256 i = 0; i < 5; i++) items[i] = item(uint128(i + 1), times[i]);
        bytes memory claims = packed(items);
        vm.expectCall(registry, abi.encodeWithSignature("runners(address)"), 1);
        Escrow.Status[] memory got = escrow.settleChannels(claims);
        for (uint256 i = 0; i < 5; i++) {
            assertStatus(got[i], i < 3 ? Escrow.Status.Settled : Escrow.Status.RunnerInactive);
        }
    }

    function test_aVoucherOfAnother_ofNobody_orOfAnUnknownKey() public {
        deployBetween(NOW - 60, NOW + 60);
        escrow.authorize(vm.addr(KEY), 100, 100, NOW + 60, true, new bytes32[](0));
        Item memory one = item(100, NOW);
        one.signer = KEY;
        assertSettles(one, Escrow.Status.BadVoucher);
        one.kind = 2;
        assertSettles(one, Escrow.Status.BadVoucher);
        // Address zero has a deposit, and a signature nobody made recovers to it.
        token.mint(address(this), 100);
        escrow.deposit(address(0), 100);
        one = item(100, NOW);
        one.terms.buyer = address(0);
        bytes memory claims = packed(one);
        for (uint256 i = claims.length - 64; i < claims.length; i++) claims[i] = 0;
        assertStatus(escrow.settleChannels(claims)[0], Escrow.Status.BadVoucher);
        claims[160] = 0x02;
        assertStatus(escrow.settleChannels(claims)[0], Escrow.Status.BadVoucher);
    }

    function test_moreThanThereIs() public {
        deployBetween(NOW - 60, NOW + 60);
        assertSettles(item(1_001, NOW), Escrow.Status.Partial);
        assertEq(balanceOfBuyer(), 0);
        assertSettles(item(5, NOW), Escrow.Status.NoFunds);
    }

    function mandated(uint128 cumulative, uint64 finishedAt) private view returns (Item memory one) {
        one = item(cumulative, finishedAt);
        (one.kind, one.signer) = (2, KEY);
    }

    function name(uint128 cap, uint128 channelCap, uint64 until, bool any, bytes32 model) private {
        bytes32[] memory models = new bytes32[](1);
        models[0] = model;
        vm.prank(vm.addr(BUYER));
        escrow.authorize(vm.addr(KEY), cap, channelCap, until, any, models);
    }

    function test_mandates() public {
        deployBetween(NOW - 60, NOW + 60);
        name(100, 60, NOW + 10, false, bytes32(uint256(1)));
        assertSettles(mandated(61, NOW), Escrow.Status.Partial);
        assertSettles(mandated(61, NOW), Escrow.Status.MandateExceeded);
        assertSettles(mandated(30, NOW + 11), Escrow.Status.MandateExceeded);
        assertSettles(mandated(30, NOW + 10), Escrow.Status.Settled);
        assertSettles(mandated(31, NOW), Escrow.Status.Partial);
        assertSettles(mandated(32, NOW), Escrow.Status.MandateExceeded);
        assertEq(balanceOfBuyer(), 900);
        name(100, 60, NOW + 10, false, bytes32(uint256(2)));
        assertSettles(mandated(33, NOW), Escrow.Status.MandateExceeded);
        name(100, 60, NOW + 10, true, bytes32(uint256(2)));
        assertSettles(mandated(33, NOW), Escrow.Status.Settled);
        vm.prank(vm.addr(BUYER));
        escrow.revoke(vm.addr(KEY));
        assertSettles(mandated(34, NOW), Escrow.Status.BadVoucher);
        // The models of a mandate end with it.
        name(100, 60, NOW + 10, false, bytes32(uint256(3)));
        assertSettles(mandated(35, NOW), Escrow.Status.MandateExceeded);
    }

    /// @dev A key named again with a bound that its channel has passed already: nothing more, and the batch goes on.
    function test_aMandateBelowWhatItsChannelWasPaid() public {
        deployBetween(NOW - 60, NOW + 60);
        name(100, 60, NOW + 10, true, 0);
        Item memory one = mandated(50, NOW);
        assertSettles(one, Escrow.Status.Settled);
        name(100, 40, NOW + 10, true, 0);
        (one.receipt.cumulative, one.voucher) = (55, 55);
        assertSettles(one, Escrow.Status.MandateExceeded);
    }
}

/// @notice Refuses packings whose parts do not add up.
contract PackingRefusals is RefusalSetup {
    bytes private claims;

    function setUp() public {
        deployBetween(NOW - 60, NOW + 60);
        claims = packed(item(100, NOW));
    }

    function assertMalformed(bytes memory bad) private {
        assertFails(address(this), abi.encodeCall(Escrow.settleChannels, (bad)), Claims.MalformedClaims.selector);
        assertFails(address(this), abi.encodeCall(Escrow.preview, (bad)), Claims.MalformedClaims.selector);
    }

    function cut(bytes memory whole, uint256 length) private pure returns (bytes memory part) {
        part = new bytes(length);
        for (uint256 i = 0; i < length; i++) part[i] = whole[i];
    }

    function test_anyLengthButTheRightOne() public {
        for (uint256 length = 0; length < claims.length; length++) assertMalformed(cut(claims, length));
        assertMalformed(bytes.concat(claims, hex"00"));
    }

    function with(uint256 at, uint8 value) private view returns (bytes memory changed) {
        changed = claims;
        changed[at] = bytes1(value);
    }

    function test_countsModesAndKinds() public {
        assertMalformed(with(85, 0)); // no claim
        assertMalformed(with(85, 2)); // a claim too many
        assertMalformed(with(86, 0)); // no listing
        assertMalformed(with(86, 2)); // a listing too many
        assertMalformed(with(87, 2)); // a mode there is none of
        assertMalformed(with(159, 0)); // a listing without a claim
        assertMalformed(with(159, 2)); // a listing with a claim more than the batch
        assertMalformed(with(160, 3)); // a kind there is none of
        bytes memory nothing = cut(with(85, 0), 88);
        assertMalformed(nothing);
        nothing[86] = 0;
        assertMalformed(nothing);
        nothing[87] = 0x01;
        assertMalformed(nothing);
    }

    function test_aListingWithoutAClaimBesideOneWithAll() public {
        Item memory one = item(100, NOW);
        bytes memory bad = abi.encodePacked(cut(claims, 88), group(one.terms, 0), group(one.terms, 1), body(one));
        bad[86] = 0x02;
        assertMalformed(bad);
    }

    function test_aListingWithMoreClaimsThanTheBatch() public {
        Item memory one = item(100, NOW);
        assertMalformed(abi.encodePacked(cut(claims, 88), group(one.terms, 2), body(one), body(one)));
    }

    function test_aProofOfSeveralClaims_orCutShort() public {
        Item[] memory items = new Item[](2);
        (items[0], items[1]) = (item(1, NOW), item(2, NOW));
        bytes memory two = packed(items);
        bytes memory rest = new bytes(two.length - 88);
        for (uint256 i = 0; i < rest.length; i++) rest[i] = two[88 + i];
        bytes memory head = cut(two, 88);
        head[87] = 0x01;
        assertMalformed(abi.encodePacked(head, uint32(0), uint32(2), uint8(0), rest));
        head[85] = 0x01;
        for (uint256 length = 0; length < 9; length++) assertMalformed(abi.encodePacked(head, new bytes(length)));
    }

    /// @dev One claim of a batch of three, shown with its proof, and with every proof but that.
    function test_proofs() public {
        bytes32 domain = escrow.domainSeparator();
        Item memory one = item(100, NOW);
        bytes32 leaf = harness.leaf(harness.channelOf(domain, one.terms), one.receipt);
        bytes32 other = keccak256("another leaf");
        bytes32 root = Protocol.node(Protocol.node(other, leaf), other);
        bytes memory head = abi.encodePacked(
            vm.addr(RUNNER), signCompact(RUNNER, Protocol.batchDigest(domain, root, 3)), uint16(1), uint8(1), uint8(1)
        );
        bytes memory rest = abi.encodePacked(group(one.terms, 1), body(one));
        bytes[7] memory bad = [
            abi.encodePacked(uint32(1), uint32(3), uint8(1), other),
            abi.encodePacked(uint32(1), uint32(3), uint8(3), other, other, other),
            abi.encodePacked(uint32(0), uint32(3), uint8(2), other, other),
            abi.encodePacked(uint32(3), uint32(3), uint8(2), other, other),
            abi.encodePacked(uint32(1), uint32(2), uint8(2), other, other),
            abi.encodePacked(uint32(1), uint32(3), uint8(0)),
            abi.encodePacked(uint32(0), uint32(0), uint8(0))
        ];
        for (uint256 i = 0; i < bad.length; i++) {
            assertStatus(escrow.settleChannels(abi.encodePacked(head, bad[i], rest))[0], Escrow.Status.BadReceipt);
        }
        assertStatus(
            escrow.settleChannels(abi.encodePacked(head, uint32(1), uint32(3), uint8(2), other, other, rest))[0], Escrow.Status.Settled
        );
    }

    /// @dev The last leaf of an odd number stands one level higher than the others.
    function test_theLastOfThree() public {
        bytes32 domain = escrow.domainSeparator();
        Item memory one = item(100, NOW);
        bytes32 leaf = harness.leaf(harness.channelOf(domain, one.terms), one.receipt);
        bytes32 pair = Protocol.node(keccak256("first"), keccak256("second"));
        bytes memory signature = signCompact(RUNNER, Protocol.batchDigest(domain, Protocol.node(pair, leaf), 3));
        bytes memory head = abi.encodePacked(vm.addr(RUNNER), signature, uint16(1), uint8(1), uint8(1));
        bytes memory rest = abi.encodePacked(group(one.terms, 1), body(one));
        Escrow.Status[] memory got =
            escrow.settleChannels(abi.encodePacked(head, uint32(2), uint32(3), uint8(2), pair, pair, rest));
        assertStatus(got[0], Escrow.Status.BadReceipt);
        got = escrow.settleChannels(abi.encodePacked(head, uint32(2), uint32(3), uint8(1), pair, rest));
        assertStatus(got[0], Escrow.Status.Settled);
    }

    /// @dev A proof longer than its tree proves nothing, even where the runner signed what it leads to.
    function test_aProofLongerThanItsTree() public {
        bytes32 domain = escrow.domainSeparator();
        Item memory one = item(100, NOW);
        bytes32 leaf = harness.leaf(harness.channelOf(domain, one.terms), one.receipt);
        bytes32 other = keccak256("another leaf");
        bytes memory signature = signCompact(RUNNER, Protocol.batchDigest(domain, Protocol.node(other, leaf), 1));
        bytes memory head = abi.encodePacked(vm.addr(RUNNER), signature, uint16(1), uint8(1), uint8(1));
        bytes memory proof = abi.encodePacked(uint32(0), uint32(1), uint8(1), other);
        Escrow.Status[] memory got = escrow.settleChannels(abi.encodePacked(head, proof, group(one.terms, 1), body(one)));
        assertStatus(got[0], Escrow.Status.BadReceipt);
    }

    /// @dev A proof that ends below its root proves nothing, even where the runner signed what it leads to, or signed zero, which is no root.
    function test_aProofThatEndsBelowItsRoot() public {
        bytes32 domain = escrow.domainSeparator();
        Item memory one = item(100, NOW);
        bytes32 leaf = harness.leaf(harness.channelOf(domain, one.terms), one.receipt);
        bytes32 other = keccak256("another leaf");
        bytes memory proof = abi.encodePacked(uint32(1), uint32(3), uint8(1), other);
        bytes32[2] memory roots = [Protocol.node(other, leaf), bytes32(0)];
        for (uint256 i = 0; i < roots.length; i++) {
            bytes memory signature = signCompact(RUNNER, Protocol.batchDigest(domain, roots[i], 3));
            bytes memory head = abi.encodePacked(vm.addr(RUNNER), signature, uint16(1), uint8(1), uint8(1));
            Escrow.Status[] memory got = escrow.settleChannels(abi.encodePacked(head, proof, group(one.terms, 1), body(one)));
            assertStatus(got[0], Escrow.Status.BadReceipt);
        }
    }
}

/// @notice Refuses deposits, exits and mandates, each with its own error.
contract EscrowRefusals is RefusalSetup {
    function setUp() public {
        deployBetween(NOW - 60, NOW + 60);
    }

    function test_aFeeAboveATenth() public {
        try new Escrow(token, escrow.registry(), TREASURY, GUARDIAN, 1_001, 1 days) {
            require(false, "made");
        } catch (bytes memory reason) {
            assertEq(keccak256(reason), keccak256(abi.encodeWithSelector(Escrow.FeeTooHigh.selector, 1_001)));
        }
        assertEq(new Escrow(token, escrow.registry(), TREASURY, GUARDIAN, 1_000, 1 days).feeBps(), 1_000);
    }

    function test_deposits() public {
        bytes memory call = abi.encodeCall(Escrow.deposit, (address(9), 0));
        assertFails(address(this), call, Escrow.NothingDeposited.selector);
        token.mint(address(this), type(uint128).max);
        call = abi.encodeCall(Escrow.deposit, (address(9), uint256(type(uint120).max) + 1));
        bytes memory reason = abi.encodeWithSelector(Escrow.AmountTooLarge.selector, uint256(type(uint120).max) + 1);
        assertFails(address(escrow), address(this), call, reason);
        escrow.deposit(address(9), type(uint120).max);
        call = abi.encodeCall(Escrow.deposit, (address(9), 1));
        assertFails(address(escrow), address(this), call, abi.encodeWithSelector(Escrow.AmountTooLarge.selector, 1));
    }

    function test_anInbox() public {
        address inbox = escrow.inboxOf(address(9));
        bytes memory call = abi.encodeCall(Escrow.depositFromInbox, (address(9)));
        assertFails(address(this), call, Escrow.NothingDeposited.selector);
        token.mint(inbox, 70);
        escrow.depositFromInbox(address(9));
        token.mint(inbox, 30);
        // There is no other way out, so no pause holds it.
        vm.prank(GUARDIAN);
        escrow.pauseDeposits(true);
        escrow.depositFromInbox(address(9));
        (uint128 balance,,) = escrow.accounts(address(9));
        assertEq(balance, 100);
        assertEq(token.balanceOf(inbox), 0);
        // It obeys nobody else.
        assertEq(token.allowance(inbox, address(this)), 0);
        assertEq(token.allowance(inbox, address(escrow)), type(uint256).max);
        require(inbox != escrow.inboxOf(address(10)), "shared");
    }

    function test_aTokenThatKeepsAPart() public {
        TollToken toll = new TollToken();
        Escrow on = new Escrow(toll, escrow.registry(), TREASURY, GUARDIAN, 100, 1 days);
        toll.mint(address(this), 1_000);
        toll.approve(address(on), 1_000);
        bytes memory call = abi.encodeCall(Escrow.deposit, (address(9), 1_000));
        assertFails(address(on), address(this), call, abi.encodeWithSelector(Escrow.TokenTakesFees.selector, 1_000, 990));
    }

    /// @dev Whoever sends a signed deposit, the signer is credited, once.
    function test_aSignedDeposit() public {
        address buyer = vm.addr(BUYER);
        token.mint(buyer, 50);
        bytes32 hash = keccak256(
            abi.encode(
                keccak256(
                    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
                ),
                buyer,
                address(escrow),
                uint256(50),
                uint256(0),
                uint256(NOW + 1),
                bytes32(uint256(5))
            )
        );
        bytes memory signature = sign(BUYER, Protocol.typed(token.DOMAIN_SEPARATOR(), hash));
        escrow.depositWithAuthorization(buyer, 50, 0, NOW + 1, bytes32(uint256(5)), signature);
        assertEq(balanceOfBuyer(), 1_050);
        bytes memory call =
            abi.encodeCall(Escrow.depositWithAuthorization, (buyer, 50, 0, NOW + 1, bytes32(uint256(5)), signature));
        assertFails(address(this), call, TestToken.AuthorizationInvalid.selector);
    }

    function test_theGuardian() public {
        bytes memory pause = abi.encodeCall(Escrow.pauseDeposits, (true));
        assertFails(address(this), pause, Escrow.NotGuardian.selector);
        vm.prank(GUARDIAN);
        escrow.pauseDeposits(true);
        token.mint(address(this), 10);
        bytes memory call = abi.encodeCall(Escrow.deposit, (address(9), 1));
        assertFails(address(this), call, Escrow.DepositsArePaused.selector);
        call = abi.encodeCall(Escrow.depositWithPermit, (address(9), 1, NOW, 27, bytes32(0), bytes32(0)));
        assertFails(address(this), call, Escrow.DepositsArePaused.selector);
        call = abi.encodeCall(Escrow.depositWithAuthorization, (address(9), 1, 0, NOW, bytes32(0), ""));
        assertFails(address(this), call, Escrow.DepositsArePaused.selector);
        assertSettles(item(100, NOW), Escrow.Status.Settled);
        vm.prank(GUARDIAN);
        escrow.pauseDeposits(false);
        escrow.deposit(address(9), 1);
    }

    function test_withdrawals() public {
        address buyer = vm.addr(BUYER);
        assertFails(buyer, abi.encodeCall(Escrow.requestWithdrawal, (0)), Escrow.NothingToWithdraw.selector);
        assertFails(buyer, abi.encodeCall(Escrow.requestWithdrawal, (1_001)), Escrow.NothingToWithdraw.selector);
        assertFails(buyer, abi.encodeCall(Escrow.withdraw, ()), Escrow.NotRequested.selector);
        vm.prank(buyer);
        escrow.requestWithdrawal(1_000);
        vm.warp(NOW + 1 days - 1);
        bytes memory reason = abi.encodeWithSelector(Escrow.TooEarly.selector, NOW + 1 days);
        assertFails(address(escrow), buyer, abi.encodeCall(Escrow.withdraw, ()), reason);
        vm.warp(NOW);
        assertSettles(item(100, NOW), Escrow.Status.Settled);
        vm.warp(NOW + 1 days);
        vm.prank(buyer);
        escrow.withdraw();
        assertEq(token.balanceOf(buyer), 900);
        assertFails(buyer, abi.encodeCall(Escrow.withdraw, ()), Escrow.NotRequested.selector);
    }

    /// @dev What was not asked back stays, and can be settled from.
    function test_aPartWithdrawn() public {
        address buyer = vm.addr(BUYER);
        vm.prank(buyer);
        escrow.requestWithdrawal(400);
        vm.warp(NOW + 1 days);
        vm.prank(buyer);
        escrow.withdraw();
        assertEq(token.balanceOf(buyer), 400);
        assertEq(balanceOfBuyer(), 600);
        assertSettles(item(600, NOW), Escrow.Status.Settled);
    }

    function test_payouts() public {
        bytes memory call = abi.encodeCall(Escrow.withdrawEarnings, (PROVIDER));
        assertFails(PROVIDER, call, Escrow.NothingToWithdraw.selector);
        call = abi.encodeCall(Escrow.distribute, (PROVIDER, PUBLISHER, 1_000));
        assertFails(address(this), call, Escrow.NothingToWithdraw.selector);
    }

    function test_mandatesThatBoundNothing() public {
        address buyer = vm.addr(BUYER);
        bytes32[] memory none = new bytes32[](0);
        bytes[6] memory calls = [
            abi.encodeCall(Escrow.authorize, (address(0), 1, 1, NOW + 1, true, none)),
            abi.encodeCall(Escrow.authorize, (buyer, 1, 1, NOW + 1, true, none)),
            abi.encodeCall(Escrow.authorize, (address(9), 0, 1, NOW + 1, true, none)),
            abi.encodeCall(Escrow.authorize, (address(9), 1, 0, NOW + 1, true, none)),
            abi.encodeCall(Escrow.authorize, (address(9), 1, 1, NOW, true, none)),
            abi.encodeCall(Escrow.revoke, (address(9)))
        ];
        for (uint256 i = 0; i < calls.length; i++) assertFails(buyer, calls[i], Escrow.BadMandate.selector);
        assertEq(escrow.mandateLeft(buyer, address(9), bytes32(0), bytes32(0), NOW), 0);
    }
}
