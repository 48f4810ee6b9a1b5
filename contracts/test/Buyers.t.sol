// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {EscrowSetup} from "./Escrow.t.sol";
import {Escrow} from "../Escrow.sol";
import {Claims} from "../Claims.sol";
import {Protocol, Receipt, Terms} from "../Protocol.sol";

/// @dev Answers whatever it is told to whoever asks for a signature's validity.
contract Wallet {
    bytes private answer;
    bool private reverts;
    bool private burnsGas;

    constructor(bytes memory answer_, bool reverts_, bool burnsGas_) {
        (answer, reverts, burnsGas) = (answer_, reverts_, burnsGas_);
    }

    fallback() external {
        while (burnsGas) {}
        bytes memory out = answer;
        bool fails = reverts;
        assembly {
            if fails { revert(add(out, 0x20), mload(out)) }
            return(add(out, 0x20), mload(out))
        }
    }
}

/// @dev Says yes to one digest with one signature.
contract StrictWallet {
    bytes32 private immutable yes;

    constructor(bytes32 digest, bytes memory signature) {
        yes = keccak256(abi.encode(digest, signature));
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        return keccak256(abi.encode(digest, signature)) == yes ? bytes4(0x1626ba7e) : bytes4(0);
    }
}

/// @notice Settles for buyers that have code: contract wallets, and keys that lent their address to code (EIP-7702).
contract BuyersTest is EscrowSetup {
    bytes32 private constant YES = bytes32(bytes4(0x1626ba7e));

    function setUp() public {
        deploy(100);
        token.mint(address(this), 1_000_000);
    }

    function termsFor(address buyer) private view returns (Terms memory terms) {
        terms = termsOf(1_000, bytes32(0));
        terms.buyer = buyer;
    }

    function settleFor(address buyer, bytes memory signature) private returns (Escrow.Status) {
        Terms memory terms = termsFor(buyer);
        bytes32 domain = escrow.domainSeparator();
        Receipt memory receipt = Receipt(1, 0, 100, uint64(vm.getBlockTimestamp()), bytes32(0));
        bytes32 leaf = harness.leaf(harness.channelOf(domain, terms), receipt);
        bytes memory head = abi.encodePacked(
            terms.runner,
            signCompact(RUNNER, Protocol.batchDigest(domain, leaf, 1)),
            uint16(1),
            uint8(1),
            uint8(0),
            terms.model,
            terms.publisher,
            terms.price,
            terms.royaltyBps,
            uint16(1)
        );
        bytes memory body = abi.encodePacked(
            uint8(1), buyer, terms.expiresAt, terms.salt, receipt.job, receipt.status, receipt.cumulative, receipt.finishedAt, receipt.detail
        );
        return escrow.settleChannels(
            abi.encodePacked(head, body, uint128(100), uint16(signature.length), signature)
        )[0];
    }

    function settleBy(bytes memory answer, bool reverts, bool burnsGas) private returns (Escrow.Status) {
        address wallet = address(new Wallet(answer, reverts, burnsGas));
        escrow.deposit(wallet, 1_000);
        return settleFor(wallet, "signature");
    }

    function assertStatus(Escrow.Status got, Escrow.Status expected) private pure {
        assertEq(uint256(got), uint256(expected));
    }

    function test_wallet_paysWhatItVouchesFor() public {
        assertStatus(settleBy(abi.encode(YES), false, false), Escrow.Status.Settled);
        assertEq(escrow.pots(escrow.potId(vm.addr(RUNNER), PUBLISHER, 1_000)), 100);
    }

    function test_wallet_isAskedForTheVouchersDigestWithTheSignatureSent() public {
        // The address is known before the wallet is made, as the terms name it.
        address wallet = vm.computeCreateAddress(address(this), vm.getNonce(address(this)));
        bytes32 domain = escrow.domainSeparator();
        bytes32 digest = Protocol.voucherDigest(domain, harness.channelOf(domain, termsFor(wallet)), 100);
        bytes memory signature = "a signature of thirty-seven bytes, so";
        assertEq(address(new StrictWallet(digest, signature)), wallet);
        escrow.deposit(wallet, 1_000);
        assertStatus(settleFor(wallet, "a signature of thirty-seven bytes, no"), Escrow.Status.BadVoucher);
        assertStatus(settleFor(wallet, ""), Escrow.Status.BadVoucher);
        assertStatus(settleFor(wallet, signature), Escrow.Status.Settled);
    }

    function test_wallet_thatSaysNoOrNothingOrTooMuchPaysNothing() public {
        assertStatus(settleBy(abi.encode(bytes32(0)), false, false), Escrow.Status.BadVoucher);
        assertStatus(settleBy("", false, false), Escrow.Status.BadVoucher);
        assertStatus(settleBy(abi.encodePacked(bytes4(0x1626ba7e)), false, false), Escrow.Status.BadVoucher);
        assertStatus(settleBy(abi.encode(YES, YES), false, false), Escrow.Status.BadVoucher);
        assertStatus(settleBy(abi.encode(bytes32(uint256(YES) | 1)), false, false), Escrow.Status.BadVoucher);
        assertStatus(settleBy(abi.encode(YES), true, false), Escrow.Status.BadVoucher);
    }

    function test_wallet_cannotBurnTheGasOfOthers() public {
        uint256 before = gasleft();
        assertStatus(settleBy(abi.encode(YES), false, true), Escrow.Status.BadVoucher);
        // What the wallet costs to make and fund is less than the rest.
        require(before - gasleft() < 800_000, "burned more than its share");
    }

    function test_walletKind_needsCode() public {
        fund(1_000);
        assertStatus(settleFor(vm.addr(BUYER), ""), Escrow.Status.BadVoucher);
        assertStatus(settleFor(address(0), ""), Escrow.Status.BadVoucher);
    }

    /// @dev A key was found for an address where a contract stands: it speaks for nothing.
    function test_codeThatStandsAtAKeysAddressSpeaksForItself() public {
        fund(1_000);
        vm.etch(vm.addr(BUYER), hex"00");
        assertStatus(settle(termsOf(1_000, bytes32(0)), 100, 100), Escrow.Status.BadVoucher);
        // As long as a delegation, and not one.
        vm.etch(vm.addr(BUYER), bytes.concat(hex"5f0100", bytes20(address(this))));
        assertStatus(settle(termsOf(1_000, bytes32(0)), 100, 100), Escrow.Status.BadVoucher);
    }

    /// @dev Vouchers signed before do not lose their worth when the key lends its address to code that refuses everything.
    function test_delegatingIsNoWayOutOfAVoucher() public {
        fund(1_000);
        Terms memory terms = termsOf(1_000, bytes32(0));
        vm.etch(vm.addr(BUYER), bytes.concat(hex"ef0100", bytes20(address(token))));
        assertStatus(settle(terms, 100, 100), Escrow.Status.Settled);
        assertEq(escrow.settled(harness.channelOf(escrow.domainSeparator(), terms)), 100);
    }

    /// @dev Nor does any code, once a voucher of the key was settled.
    function test_aKeySeenOnceIsAKeyForEver() public {
        fund(1_000);
        Terms memory terms = termsOf(1_000, bytes32(0));
        assertStatus(settle(terms, 100, 100), Escrow.Status.Settled);
        vm.etch(vm.addr(BUYER), hex"00");
        assertStatus(settle(terms, 300, 300), Escrow.Status.Settled);
        assertEq(balanceOfBuyer(), 700);
    }
}
