// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ToldRegistry, ToldSetup} from "./Standings.t.sol";
import {Test} from "./Test.sol";
import {Escrow} from "../Escrow.sol";
import {Protocol} from "../Protocol.sol";

/// @dev Two runners of two providers attest, lapse, are stopped and taken up again, while claims of two listings each are settled and pots
///      divided, in any order. Keeps its own account of every attestation ever given.
contract AttestedHandler is ToldSetup {
    struct Given {
        uint256 from;
        uint256 until;
        uint16 index;
    }

    uint64 private constant EXPIRY = 2_200_000_000;

    ToldRegistry private immutable registry;
    uint256[2] private runners = [RUNNER, 0xA11CF];
    address[2] private providers = [PROVIDER, address(0x2001)];
    Given[][2] private given;
    uint256[2] private paidTo;
    uint256[2] private dividedTo;
    uint256 private next;

    string public broken;

    constructor() {
        registry = deployTold();
        fund(type(uint120).max);
        attest(0, 1 days, 0);
        attest(1, 1 days, 1);
    }

    function time() private view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    function wait(uint32 seconds_) external {
        vm.warp(time() + seconds_ % 12 hours);
    }

    /// @dev As the registry would write it: of an approved workload, from now on, or from before where it renews what still stands.
    function attest(uint8 who, uint32 lasts, uint8 workload) public {
        who %= 2;
        uint16 index = uint16(1 + workload % 3);
        (bool approved,) = approvedAndAlive(index, type(uint32).max);
        if (!approved) return;
        Given memory now_ = Given(time(), time() + 1 + lasts % 1 days, index);
        if (given[who].length > 0) {
            Given memory last = given[who][given[who].length - 1];
            if (last.until >= time() && last.index == index && stands(last)) {
                if (last.until >= now_.until) return;
                now_.from = last.from;
            }
        }
        given[who].push(now_);
        registry.set(vm.addr(runners[who]), providers[who], uint32(now_.from), uint32(now_.until), index);
    }

    function stop(uint8 workload) external {
        try registry.revoke(bytes32(uint256(1 + workload % 3))) {} catch {}
    }

    function takeUp(uint8 workload) external {
        registry.approve(bytes32(uint256(1 + workload % 3)));
    }

    /// @dev Seldom, or little else would happen.
    function kill(uint8 chance) external {
        if (chance % 8 == 0) registry.kill();
    }

    function approvedAndAlive(uint16 index, uint256 from) private view returns (bool approved, bool alive) {
        (uint32 killedAt,, uint208 approvals) = registry.standing();
        return (approvals >> index & 1 == 1, from > killedAt);
    }

    function stands(Given memory one) private view returns (bool) {
        (bool approved, bool alive) = approvedAndAlive(one.index, one.from);
        return approved && alive;
    }

    function covers(Given memory one, uint256 at) private view returns (bool) {
        return stands(one) && at + 5 minutes >= one.from && at <= one.until;
    }

    /// @dev Whether any attestation ever given covers a time and stands, and whether the one of now does.
    function entitled(uint8 who, uint256 at) private view returns (bool ever, bool now_) {
        if (at > time() + 5 minutes) return (false, false);
        for (uint256 i = 0; i < given[who].length; i++) {
            now_ = covers(given[who][i], at);
            if (now_) ever = true;
        }
    }

    function settle(uint8 who, uint8 listing, uint32 amount, uint32 when) external {
        who %= 2;
        Item memory one = item(uint128(amount) + 1, uint64(time() + 400 - when % (when & 1 == 1 ? 1 hours : 1 days)));
        one.terms.runner = vm.addr(runners[who]);
        one.terms.royaltyBps = uint16(listing % 2);
        one.terms.salt = bytes32(++next);
        one.terms.expiresAt = EXPIRY;
        bytes memory claims = packedBy(runners[who], one);
        bytes32 pot = escrow.potId(one.terms.runner, PUBLISHER, one.terms.royaltyBps);
        uint256 before = escrow.pots(pot);
        (Escrow.Status[] memory foreseen, uint128[] memory amounts) = escrow.preview(claims);
        Escrow.Status status = escrow.settleChannels(claims)[0];
        uint256 paid = escrow.settled(harness.channelOf(escrow.domainSeparator(), one.terms));
        if (status != foreseen[0] || paid != amounts[0]) broken = "a preview said otherwise";
        if (escrow.pots(pot) != before + paid) broken = "a pot got another amount than was paid";
        (bool ever, bool now_) = entitled(who, one.receipt.finishedAt);
        if (paid > 0 && !ever) broken = "paid for work of no attestation that stands";
        if (paid != one.receipt.cumulative && now_) broken = "work under the attestation of now was not paid";
        paidTo[who] += paid;
    }

    function packedBy(uint256 runner, Item memory one) private view returns (bytes memory) {
        bytes32 domain = escrow.domainSeparator();
        bytes32 leaf = harness.leaf(harness.channelOf(domain, one.terms), one.receipt);
        bytes memory signature = signCompact(runner, Protocol.batchDigest(domain, leaf, 1));
        return abi.encodePacked(
            vm.addr(runner), signature, uint16(1), uint8(1), uint8(0), group(one.terms, 1), body(one)
        );
    }

    function divideSome(uint8 who, uint8 listing) external {
        who %= 2;
        address runner = vm.addr(runners[who]);
        uint16 royaltyBps = uint16(listing % 2);
        uint256 amount = escrow.pots(escrow.potId(runner, PUBLISHER, royaltyBps));
        if (amount == 0) return;
        uint256 other = escrow.earnings(providers[1 - who]);
        uint256 own = escrow.earnings(providers[who]);
        escrow.distribute(runner, PUBLISHER, royaltyBps);
        if (escrow.earnings(providers[1 - who]) != other) broken = "another provider was paid";
        (uint256 toProvider,,) = escrow.divide(amount, royaltyBps);
        if (escrow.earnings(providers[who]) != own + toProvider) broken = "the provider was not paid its share";
        dividedTo[who] += amount;
    }

    /// @dev What a runner's pots ever got is in them or was divided.
    function everyPotIsItsRunners() external view returns (bool) {
        for (uint256 who = 0; who < 2; who++) {
            uint256 held = dividedTo[who];
            for (uint16 royaltyBps = 0; royaltyBps < 2; royaltyBps++) {
                held += escrow.pots(escrow.potId(vm.addr(runners[who]), PUBLISHER, royaltyBps));
            }
            if (held != paidTo[who]) return false;
        }
        return true;
    }
}

contract AttestedInvariants is Test {
    AttestedHandler private handler;

    function setUp() public {
        handler = new AttestedHandler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_onlyAttestedWorkIsPaid_andAllOfNow() public view {
        require(bytes(handler.broken()).length == 0, handler.broken());
    }

    function invariant_everyPotIsItsRunners() public view {
        require(handler.everyPotIsItsRunners(), "a pot holds another's money");
    }
}
