// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "./Test.sol";
import {ProtocolHarness} from "./Protocol.t.sol";
import {Escrow} from "../Escrow.sol";
import {Protocol, Receipt, Terms} from "../Protocol.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {TestToken} from "../TestToken.sol";

/// @dev Answers as a registry that has attested every runner for one provider; the real one is tested with real quotes.
contract EveryoneAttested {
    address private immutable provider;

    constructor(address provider_) {
        provider = provider_;
    }

    function runners(address) external view returns (address, uint32, uint32, uint16, uint8, uint8) {
        return (provider, 1, type(uint32).max, 1, 0, 0);
    }

    function standing() external pure returns (uint32, uint16, uint208) {
        return (0, 0, 2);
    }

    function CLOCK_SKEW() external pure returns (uint256) {
        return 5 minutes;
    }
}

abstract contract EscrowSetup is Test {
    uint256 internal constant BUYER = 0xB0B;
    uint256 internal constant RUNNER = 0xA11CE;
    address internal constant PROVIDER = address(0x1001);
    address internal constant PUBLISHER = address(0x1002);
    address internal constant TREASURY = address(0x1003);
    address internal constant GUARDIAN = address(0x1004);

    TestToken internal token;
    Escrow internal escrow;
    ProtocolHarness internal harness = new ProtocolHarness();

    function deploy(uint16 feeBps) internal {
        vm.chainId(31337);
        vm.warp(1_800_000_000);
        token = new TestToken();
        escrow = new Escrow(token, RunnerRegistry(address(new EveryoneAttested(PROVIDER))), TREASURY, GUARDIAN, feeBps, 1 days);
        token.approve(address(escrow), type(uint256).max);
    }

    function fund(uint256 amount) internal {
        token.mint(address(this), amount);
        escrow.deposit(vm.addr(BUYER), amount);
    }

    function termsOf(uint16 royaltyBps, bytes32 salt) internal view returns (Terms memory) {
        return Terms(
            vm.addr(BUYER),
            vm.addr(RUNNER),
            bytes32(uint256(1)),
            PUBLISHER,
            1,
            royaltyBps,
            escrow.feeBps(),
            uint64(block.timestamp + 1 hours),
            salt
        );
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function signCompact(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, bytes32(uint256(s) | uint256(v - 27) << 255));
    }

    function pack(Terms memory terms, uint128 cumulative, uint128 voucher, uint8 kind, uint256 signer)
        internal
        view
        returns (bytes memory)
    {
        bytes32 domain = escrow.domainSeparator();
        bytes32 channel = harness.channelOf(domain, terms);
        Receipt memory receipt = Receipt(1, 0, cumulative, uint64(block.timestamp), bytes32(0));
        bytes memory batch = signCompact(RUNNER, Protocol.batchDigest(domain, harness.leaf(channel, receipt), 1));
        bytes memory head = abi.encodePacked(
            terms.runner, batch, uint16(1), uint8(1), uint8(0), terms.model, terms.publisher, terms.price, terms.royaltyBps, uint16(1)
        );
        bytes memory body = abi.encodePacked(
            kind, terms.buyer, terms.expiresAt, terms.salt, receipt.job, receipt.status, cumulative, receipt.finishedAt, receipt.detail
        );
        return abi.encodePacked(
            head, body, voucher, signCompact(signer, Protocol.voucherDigest(domain, channel, voucher))
        );
    }

    function settle(Terms memory terms, uint128 cumulative, uint128 voucher) internal returns (Escrow.Status) {
        return escrow.settleChannels(pack(terms, cumulative, voucher, 0, BUYER))[0];
    }

    function distribute(uint16 royaltyBps) internal {
        if (escrow.pots(escrow.potId(vm.addr(RUNNER), PUBLISHER, royaltyBps)) > 0) escrow.distribute(vm.addr(RUNNER), PUBLISHER, royaltyBps);
    }

    function balanceOfBuyer() internal view returns (uint128 balance) {
        (balance,,) = escrow.accounts(vm.addr(BUYER));
    }
}

contract EscrowTest is EscrowSetup {
    function testFuzz_settle_paysExactlyTheSmaller(uint128 cumulative, uint128 voucher, uint128 deposit, uint16 royalty, uint16 fee)
        public
    {
        fee = uint16(bound(fee, 0, 1_000));
        royalty = uint16(bound(royalty, 0, 10_000 - fee));
        uint256 funded = bound(deposit, 1, type(uint120).max);
        deploy(fee);
        fund(funded);

        settle(termsOf(royalty, bytes32(0)), cumulative, voucher);
        distribute(royalty);

        uint256 owed = cumulative < voucher ? cumulative : voucher;
        uint256 paid = owed < funded ? owed : funded;
        assertEq(escrow.earnings(PROVIDER) + escrow.earnings(PUBLISHER) + escrow.earnings(TREASURY), paid);
        assertEq(escrow.earnings(PUBLISHER), paid * royalty / 10_000);
        assertEq(escrow.earnings(TREASURY), paid * fee / 10_000);
        assertEq(balanceOfBuyer(), funded - paid);
    }

    function testFuzz_settle_neverPaysTwice(uint64 first, uint64 second) public {
        deploy(100);
        fund(type(uint120).max);
        Terms memory terms = termsOf(1_000, bytes32(0));
        settle(terms, first, type(uint128).max);
        settle(terms, second, type(uint128).max);
        settle(terms, first, type(uint128).max);
        uint256 highest = first > second ? first : second;
        assertEq(type(uint120).max - balanceOfBuyer(), highest);
    }
}

/// @dev Does what anyone could do, in any order.
contract EscrowHandler is EscrowSetup {
    bool public settledFell;

    constructor() {
        deploy(100);
    }

    function parts() external view returns (TestToken, Escrow) {
        return (token, escrow);
    }

    function deposit(uint64 amount) external {
        if (amount > 0) fund(amount);
    }

    function settleSome(uint64 cumulative, uint64 voucher, uint8 channel) external {
        Terms memory terms = termsOf(1_000, bytes32(uint256(channel % 4)));
        bytes32 id = harness.channelOf(escrow.domainSeparator(), terms);
        uint128 before = escrow.settled(id);
        settle(terms, cumulative, voucher);
        if (escrow.settled(id) < before) settledFell = true;
    }

    function requestWithdrawal(uint128 amount) external {
        uint128 balance = balanceOfBuyer();
        if (balance == 0) return;
        vm.prank(vm.addr(BUYER));
        escrow.requestWithdrawal(uint128(bound(amount, 1, balance)));
    }

    function withdraw() external {
        (, uint128 requested, uint64 at) = escrow.accounts(vm.addr(BUYER));
        if (requested == 0) return;
        vm.warp(at);
        vm.prank(vm.addr(BUYER));
        escrow.withdraw();
    }

    function distributeSome() external {
        distribute(1_000);
    }

    function withdrawEarnings(uint8 who) external {
        address payee = who % 3 == 0 ? PROVIDER : who % 3 == 1 ? PUBLISHER : TREASURY;
        if (escrow.earnings(payee) == 0) return;
        vm.prank(payee);
        escrow.withdrawEarnings(payee);
    }

    function books() external view returns (uint256) {
        return balanceOfBuyer() + escrow.pots(escrow.potId(vm.addr(RUNNER), PUBLISHER, 1_000)) + escrow.earnings(PROVIDER) + escrow.earnings(PUBLISHER) + escrow.earnings(TREASURY);
    }
}

contract EscrowInvariants is Test {
    EscrowHandler private handler;
    TestToken private token;
    Escrow private escrow;

    function setUp() public {
        handler = new EscrowHandler();
        (token, escrow) = handler.parts();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_tokenBalanceIsTheSumOfTheBooks() public view {
        assertEq(token.balanceOf(address(escrow)), handler.books());
    }

    function invariant_settledNeverFalls() public view {
        require(!handler.settledFell(), "settled fell");
    }
}
