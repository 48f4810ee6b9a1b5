// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "./Test.sol";
import {EscrowSetup} from "./Escrow.t.sol";
import {Escrow} from "../Escrow.sol";
import {Terms} from "../Protocol.sol";
import {TestToken} from "../TestToken.sol";

/// @dev Two buyers, a key with a mandate of each, honest and forged receipts and vouchers, in any order; keeps its own account of what was signed.
contract MarketHandler is EscrowSetup {
    uint256 private constant KEY = 0x4E7;
    uint256 private constant STRANGER = 0x5A1;
    uint256 private constant OTHER_RUNNER = 0xA11CF;
    uint64 private constant EXPIRY = 2_200_000_000;

    address private immutable owner = msg.sender;
    uint256[2] private buyers = [BUYER, 0xB0C];

    bytes32[] private channels;
    mapping(bytes32 channel => bool) private known;
    /// What the best pair of a true receipt and a true voucher is worth.
    mapping(bytes32 channel => uint256) private allowed;
    /// Put in and taken out again, by buyer.
    mapping(address buyer => uint256) private deposited;
    mapping(address buyer => uint256) private withdrawn;
    mapping(address buyer => uint256) private owed;
    /// What a buyer's key has spent since it was named, and may spend.
    mapping(address buyer => uint256) private spent;
    mapping(address buyer => uint256) private cap;
    mapping(address buyer => uint256) private channelCap;

    string public broken;

    constructor() {
        deploy(100);
    }

    function parts() external view returns (TestToken, Escrow) {
        return (token, escrow);
    }

    function deposit(uint8 who, uint64 amount) external {
        if (amount == 0) return;
        token.mint(address(this), amount);
        escrow.deposit(vm.addr(buyers[who % 2]), amount);
        deposited[vm.addr(buyers[who % 2])] += amount;
    }

    function authorize(uint8 who, uint64 total, uint64 inChannel, bool any) external {
        address buyer = vm.addr(buyers[who % 2]);
        (cap[buyer], channelCap[buyer], spent[buyer]) = (bound(total, 1, type(uint64).max), bound(inChannel, 1, type(uint64).max), 0);
        bytes32[] memory models = new bytes32[](any ? 0 : 1);
        if (!any) models[0] = bytes32(uint256(1));
        vm.prank(buyer);
        escrow.authorize(vm.addr(KEY), uint128(cap[buyer]), uint128(channelCap[buyer]), EXPIRY, any, models);
    }

    function revoke(uint8 who) external {
        address buyer = vm.addr(buyers[who % 2]);
        if (cap[buyer] == 0) return;
        cap[buyer] = 0;
        vm.prank(buyer);
        escrow.revoke(vm.addr(KEY));
    }

    /// @param how 0 and 3 the buyer's key, 1 its mandated key, 2 a stranger's, 4 a runner's signature that is another's
    function settleSome(uint8 who, uint8 salt, uint64 receipt, uint64 voucher, uint8 how) external {
        uint256 buyer = buyers[who % 2];
        Terms memory terms = termsOf(1_000, bytes32(uint256(salt % 3)));
        (terms.buyer, terms.expiresAt) = (vm.addr(buyer), EXPIRY);
        how = how % 5;
        if (how == 4) terms.runner = vm.addr(OTHER_RUNNER);
        bytes32 channel = harness.channelOf(escrow.domainSeparator(), terms);
        if (!known[channel]) {
            known[channel] = true;
            channels.push(channel);
        }
        uint256 before = escrow.settled(channel);
        uint256 signer = how == 1 ? KEY : how == 2 ? STRANGER : buyer;
        escrow.settleChannels(pack(terms, receipt, voucher, how == 1 || (how == 2 && salt & 1 == 1) ? 2 : 0, signer));
        uint256 paid = escrow.settled(channel) - before;
        account(terms.buyer, channel, paid, receipt < voucher ? receipt : voucher, how);
    }

    function account(address buyer, bytes32 channel, uint256 paid, uint256 worth, uint8 how) private {
        owed[buyer] += paid;
        if (how == 2 || how == 4) {
            if (paid > 0) broken = "paid on a forgery";
            return;
        }
        if (worth > allowed[channel]) allowed[channel] = worth;
        if (how != 1 || paid == 0) return;
        spent[buyer] += paid;
        if (spent[buyer] > cap[buyer]) broken = "a key spent more than its mandate";
        if (escrow.settled(channel) > channelCap[buyer]) broken = "a key spent more in a channel than it may";
    }

    function requestWithdrawal(uint8 who, uint128 amount) external {
        address buyer = vm.addr(buyers[who % 2]);
        (uint128 balance,,) = escrow.accounts(buyer);
        if (balance == 0) return;
        vm.prank(buyer);
        escrow.requestWithdrawal(uint128(bound(amount, 1, balance)));
    }

    function withdraw(uint8 who, uint32 wait) external {
        address buyer = vm.addr(buyers[who % 2]);
        (, uint128 requested, uint64 at) = escrow.accounts(buyer);
        vm.warp(vm.getBlockTimestamp() + wait % 2 days);
        uint256 before = token.balanceOf(buyer);
        vm.prank(buyer);
        try escrow.withdraw() {
            if (requested == 0 || vm.getBlockTimestamp() < at) broken = "left early";
        } catch {}
        withdrawn[buyer] += token.balanceOf(buyer) - before;
    }

    function distributeSome() external {
        distribute(1_000);
    }

    function withdrawEarnings(uint8 who) external {
        takeEarnings([PROVIDER, PUBLISHER, TREASURY][who % 3]);
    }

    function takeEarnings(address payee) private {
        if (escrow.earnings(payee) == 0) return;
        vm.prank(payee);
        escrow.withdrawEarnings(payee);
    }

    function books() external view returns (uint256 sum) {
        for (uint256 i = 0; i < 2; i++) {
            (uint128 balance,,) = escrow.accounts(vm.addr(buyers[i]));
            sum += balance;
        }
        sum += escrow.pots(escrow.potId(vm.addr(RUNNER), PUBLISHER, 1_000));
        sum += escrow.earnings(PROVIDER) + escrow.earnings(PUBLISHER) + escrow.earnings(TREASURY);
    }

    function noChannelAboveWhatWasSigned() external view returns (bool) {
        for (uint256 i = 0; i < channels.length; i++) {
            if (escrow.settled(channels[i]) > allowed[channels[i]]) return false;
        }
        return true;
    }

    /// @dev What a buyer put in is there, taken out, or paid on its own channels.
    function everyBuyersMoneyIsAccountedFor() external view returns (bool) {
        for (uint256 i = 0; i < 2; i++) {
            address buyer = vm.addr(buyers[i]);
            (uint128 balance,,) = escrow.accounts(buyer);
            if (deposited[buyer] != balance + withdrawn[buyer] + owed[buyer]) return false;
        }
        return true;
    }

    /// @dev Everybody leaves, each by what it may call itself or anyone may.
    function leaveAll() external {
        if (msg.sender != owner) return;
        for (uint256 i = 0; i < 2; i++) {
            address buyer = vm.addr(buyers[i]);
            (uint128 balance,,) = escrow.accounts(buyer);
            if (balance == 0) continue;
            vm.prank(buyer);
            escrow.requestWithdrawal(balance);
            vm.warp(vm.getBlockTimestamp() + 1 days);
            vm.prank(buyer);
            escrow.withdraw();
            // A sender drawn at random has been the owner.
            withdrawn[buyer] += balance;
        }
        distribute(1_000);
        takeEarnings(PROVIDER);
        takeEarnings(PUBLISHER);
        takeEarnings(TREASURY);
    }
}

contract MarketInvariants is Test {
    MarketHandler private handler;
    TestToken private token;
    Escrow private escrow;

    function setUp() public {
        handler = new MarketHandler();
        (token, escrow) = handler.parts();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_noGainWithoutReceiptAndVoucher_noMandateExceeded_noEarlyLeave() public view {
        require(bytes(handler.broken()).length == 0, handler.broken());
    }

    function invariant_noChannelIsPaidAboveItsVoucherOrItsReceipt() public view {
        require(handler.noChannelAboveWhatWasSigned(), "paid above what was signed");
    }

    function invariant_everyBuyersMoneyIsAccountedFor() public view {
        require(handler.everyBuyersMoneyIsAccountedFor(), "a buyer's money is missing");
        assertEq(token.balanceOf(address(escrow)), handler.books());
    }

    function afterInvariant() public {
        handler.leaveAll();
        assertEq(token.balanceOf(address(escrow)), 0);
    }
}
