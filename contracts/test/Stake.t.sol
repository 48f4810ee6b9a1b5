// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {Test} from "./Test.sol";
import {ProtocolHarness} from "./Protocol.t.sol";
import {Proof, Protocol, Receipt, Terms} from "../Protocol.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {SignedReceipt, Stake} from "../Stake.sol";
import {TestToken} from "../TestToken.sol";

/// @dev Answers as a registry that has seen these runners; the real one is tested with real quotes.
contract SeenRunners {
    mapping(address runner => address) private providers;

    function see(address runner, address provider) external {
        providers[runner] = provider;
    }

    function providerAt(address runner, uint64) external view returns (address, bool) {
        return (providers[runner], false);
    }

    function escrow() external pure returns (address) {
        return address(0xE5C);
    }
}

/// @dev Keeps a hundredth of each transfer.
contract TollToken is ERC20 {
    constructor() ERC20("Toll", "TOLL") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        uint256 toll = from == address(0) || to == address(0) ? 0 : amount / 100;
        if (toll > 0) super._update(from, address(this), toll);
        super._update(from, to, amount - toll);
    }
}

/// @dev Calls back whom it is told to, in the middle of each transfer.
contract CallingToken is ERC20 {
    address public target;
    bytes public data;
    bool public succeeded;

    constructor() ERC20("Calling", "CALL") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function aim(address target_, bytes calldata data_) external {
        (target, data) = (target_, data_);
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (target == address(0) || from == address(0)) return;
        address aimed = target;
        target = address(0);
        (succeeded,) = aimed.call(data);
    }
}

abstract contract StakeSetup is Test {
    uint256 internal constant RUNNER = 0xA11CE;
    uint256 internal constant OTHER = 0xA11CF;
    address internal constant PROVIDER = address(0x1001);
    address internal constant BUYER = address(0x1005);
    address internal constant REPORTER = address(0x1006);

    TestToken internal token;
    Stake internal stakes;
    SeenRunners internal registry;
    ProtocolHarness internal harness = new ProtocolHarness();

    function deploy() internal {
        vm.chainId(31337);
        vm.warp(1_800_000_000);
        token = new TestToken();
        registry = new SeenRunners();
        registry.see(vm.addr(RUNNER), PROVIDER);
        stakes = new Stake(token, RunnerRegistry(address(registry)));
        token.approve(address(stakes), type(uint256).max);
    }

    function put(uint256 key, uint256 amount) internal {
        token.mint(address(this), amount);
        stakes.stake(vm.addr(key), amount);
    }

    function termsOf(uint256 runner) internal pure returns (Terms memory) {
        return Terms(BUYER, vm.addr(runner), bytes32(uint256(1)), address(0x1002), 1, 1_000, 100, 1_900_000_000, bytes32(uint256(7)));
    }

    function receiptOf(uint64 job, uint128 cumulative) internal view returns (Receipt memory) {
        return Receipt(job, 0, cumulative, uint64(vm.getBlockTimestamp()), keccak256("detail"));
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Signs a batch of one.
    function signed(uint256 key, Terms memory terms, Receipt memory receipt) internal view returns (SignedReceipt memory) {
        bytes32 domain = stakes.domainSeparator();
        bytes32 root = harness.leaf(harness.channelOf(domain, terms), receipt);
        return SignedReceipt(receipt, Proof(0, 1, new bytes32[](0)), sign(key, Protocol.batchDigest(domain, root, 1)));
    }

    /// @dev Signs a batch of two and shows the one at `index`.
    function signedPair(uint256 key, Terms memory terms, Receipt memory left, Receipt memory right, uint32 index)
        internal
        view
        returns (SignedReceipt memory)
    {
        bytes32 domain = stakes.domainSeparator();
        bytes32 channel = harness.channelOf(domain, terms);
        (bytes32 a, bytes32 b) = (harness.leaf(channel, left), harness.leaf(channel, right));
        bytes32[] memory path = new bytes32[](1);
        path[0] = index == 0 ? b : a;
        return SignedReceipt(
            index == 0 ? left : right,
            Proof(index, 2, path),
            sign(key, Protocol.batchDigest(domain, Protocol.node(a, b), 2))
        );
    }

    /// @dev Shows two receipts of one job with different running totals.
    function proofOf(uint256 key) internal view returns (Terms memory terms, SignedReceipt memory a, SignedReceipt memory b) {
        terms = termsOf(key);
        a = signed(key, terms, receiptOf(1, 100));
        b = signed(key, terms, receiptOf(1, 200));
    }

    function slash(uint256 key) internal {
        (Terms memory terms, SignedReceipt memory a, SignedReceipt memory b) = proofOf(key);
        vm.prank(REPORTER);
        stakes.slash(terms, a, b);
    }

    function amountOf(uint256 key) internal view returns (uint256 amount) {
        (amount,,,) = stakes.stakes(vm.addr(key));
    }

    function isSlashed(uint256 key) internal view returns (bool slashed) {
        (,,, slashed) = stakes.stakes(vm.addr(key));
    }

    /// @dev Expects a slash to be refused, for this reason and no other.
    function refuses(Terms memory terms, SignedReceipt memory a, SignedReceipt memory b, bytes memory reason) internal {
        try stakes.slash(terms, a, b) {
            require(false, "slashed");
        } catch (bytes memory got) {
            assertEq(keccak256(got), keccak256(reason));
        }
        require(!isSlashed(RUNNER), "slashed all the same");
    }
}

/// @notice Tries to take an honest runner's stake.
contract StakeSlashAttacks is StakeSetup {
    bytes private nothingDiffers = abi.encodeWithSelector(Stake.NothingDiffers.selector);
    bytes private notInBatch = abi.encodeWithSelector(Stake.NotInBatch.selector);

    function setUp() public {
        deploy();
        put(RUNNER, 1_000);
    }

    function wrongSigner(address got) private pure returns (bytes memory) {
        return abi.encodeWithSelector(Stake.WrongSigner.selector, got);
    }

    function test_refusesTheSameReceiptTwice() public {
        Terms memory terms = termsOf(RUNNER);
        SignedReceipt memory one = signed(RUNNER, terms, receiptOf(1, 100));
        refuses(terms, one, one, nothingDiffers);
    }

    function test_refusesTheSameReceiptInTwoBatches() public {
        Terms memory terms = termsOf(RUNNER);
        Receipt memory receipt = receiptOf(1, 100);
        refuses(
            terms,
            signed(RUNNER, terms, receipt),
            signedPair(RUNNER, terms, receipt, receiptOf(2, 200), 0),
            nothingDiffers
        );
    }

    function testFuzz_refusesWhatDiffersInTimeAlone(uint64 early, uint64 late) public {
        Terms memory terms = termsOf(RUNNER);
        (Receipt memory a, Receipt memory b) = (receiptOf(1, 100), receiptOf(1, 100));
        (a.finishedAt, b.finishedAt) = (early, late);
        refuses(terms, signed(RUNNER, terms, a), signed(RUNNER, terms, b), nothingDiffers);
    }

    function test_refusesTwoJobs() public {
        Terms memory terms = termsOf(RUNNER);
        refuses(
            terms,
            signed(RUNNER, terms, receiptOf(1, 100)),
            signed(RUNNER, terms, receiptOf(2, 200)),
            abi.encodeWithSelector(Stake.DifferentJobs.selector, 1, 2)
        );
    }

    function test_refusesTwoChannels() public {
        Terms memory terms = termsOf(RUNNER);
        Terms memory others = termsOf(RUNNER);
        others.salt = bytes32(uint256(8));
        (SignedReceipt memory a, SignedReceipt memory b) =
            (signed(RUNNER, terms, receiptOf(1, 100)), signed(RUNNER, others, receiptOf(1, 200)));
        // Under these terms the second leaf is another, whose root nobody signed.
        bytes32 domain = stakes.domainSeparator();
        bytes32 root = harness.leaf(harness.channelOf(domain, terms), b.receipt);
        address got = harness.recover(Protocol.batchDigest(domain, root, 1), b.batchSignature);
        refuses(terms, a, b, wrongSigner(got));
    }

    function test_refusesReceiptsOfAnotherKey() public {
        Terms memory terms = termsOf(RUNNER);
        SignedReceipt memory honest = signed(RUNNER, terms, receiptOf(1, 100));
        SignedReceipt memory forged = signed(OTHER, terms, receiptOf(1, 200));
        refuses(terms, honest, forged, wrongSigner(vm.addr(OTHER)));
        refuses(terms, forged, honest, wrongSigner(vm.addr(OTHER)));
        // The other key's own terms slash the other key, not this one.
        slash(OTHER);
        assertEq(amountOf(RUNNER), 1_000);
    }

    function test_refusesEmptySignatures() public {
        (Terms memory terms, SignedReceipt memory a, SignedReceipt memory b) = proofOf(RUNNER);
        b.batchSignature = "";
        refuses(terms, a, b, wrongSigner(address(0)));
        b.batchSignature = new bytes(65);
        refuses(terms, a, b, wrongSigner(address(0)));
        b.batchSignature[64] = bytes1(uint8(27));
        refuses(terms, a, b, wrongSigner(address(0)));
    }

    function test_refusesNobodysKey() public {
        Terms memory terms = termsOf(RUNNER);
        (SignedReceipt memory a, SignedReceipt memory b) =
            (signed(RUNNER, terms, receiptOf(1, 100)), signed(RUNNER, terms, receiptOf(1, 200)));
        terms.runner = address(0);
        a.batchSignature = new bytes(65);
        b.batchSignature = new bytes(65);
        refuses(terms, a, b, wrongSigner(address(0)));
    }

    function test_refusesTheOtherHalfOfASignature() public {
        (Terms memory terms, SignedReceipt memory a, SignedReceipt memory b) = proofOf(RUNNER);
        bytes memory signature = b.batchSignature;
        uint256 s;
        assembly {
            s := mload(add(signature, 0x40))
            mstore(add(signature, 0x40), sub(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141, s))
            mstore8(add(signature, 0x60), xor(7, byte(0, mload(add(signature, 0x60)))))
        }
        refuses(terms, a, b, wrongSigner(address(0)));
    }

    function test_refusesProofsOfTheWrongShape() public {
        (Terms memory terms, SignedReceipt memory a, SignedReceipt memory b) = proofOf(RUNNER);
        b.proof = Proof(0, 0, new bytes32[](0));
        refuses(terms, a, b, notInBatch);
        b.proof = Proof(1, 1, new bytes32[](0));
        refuses(terms, a, b, notInBatch);
        b.proof = Proof(0, 1, new bytes32[](1));
        refuses(terms, a, b, notInBatch);
        b.proof = Proof(0, 2, new bytes32[](0));
        refuses(terms, a, b, notInBatch);
    }

    function test_refusesReceiptsForAnotherEscrowOrChain() public {
        (Terms memory terms, SignedReceipt memory a, SignedReceipt memory b) = proofOf(RUNNER);
        vm.chainId(1);
        Stake elsewhere = new Stake(token, RunnerRegistry(address(registry)));
        vm.chainId(31337);
        try elsewhere.slash(terms, a, b) {
            require(false, "slashed");
        } catch (bytes memory reason) {
            assertEq(bytes32(bytes4(reason)), bytes32(Stake.WrongSigner.selector));
        }
    }

    /// @dev Bits outside a field change no leaf; they must not make one receipt look like two.
    function test_refusesDirtyBitsOutsideAField() public {
        Terms memory terms = termsOf(RUNNER);
        SignedReceipt memory one = signed(RUNNER, terms, receiptOf(1, 100));
        bytes memory packed = abi.encodeCall(Stake.slash, (terms, one, one));
        uint256 second;
        assembly {
            // The selector, nine words of terms and the first offset come before the second offset.
            second := add(4, mload(add(add(packed, 0x20), 324)))
        }
        for (uint256 word = 0; word < 4; word++) {
            bytes memory dirty = bytes.concat(packed);
            uint256 at = second + word * 32;
            dirty[at] = bytes1(uint8(1));
            (bool ok,) = address(stakes).call(dirty);
            // A dirty time is not compared, so it may get as far as any two equal receipts: nowhere.
            require(!ok && !isSlashed(RUNNER), "slashed");
        }
        assertEq(amountOf(RUNNER), 1_000);
    }

    /// @dev A node of the tree is no leaf, so what an inner node hashes cannot be shown as a receipt.
    function testFuzz_refusesAnyOtherDetailThanWasSigned(bytes32 detail, uint128 cumulative, uint8 status) public {
        Terms memory terms = termsOf(RUNNER);
        SignedReceipt memory a = signed(RUNNER, terms, receiptOf(1, 100));
        SignedReceipt memory b = signed(RUNNER, terms, receiptOf(1, 100));
        (b.receipt.detail, b.receipt.cumulative, b.receipt.status) = (detail, cumulative, status);
        try stakes.slash(terms, a, b) {
            require(false, "slashed");
        } catch {}
        assertEq(amountOf(RUNNER), 1_000);
    }
}

/// @notice Takes the stake of a key that signed twice.
contract StakeSlashTest is StakeSetup {
    function setUp() public {
        deploy();
        put(RUNNER, 1_000);
    }

    function slashOn(Receipt memory a, Receipt memory b) private {
        Terms memory terms = termsOf(RUNNER);
        stakes.slash(terms, signed(RUNNER, terms, a), signed(RUNNER, terms, b));
        require(isSlashed(RUNNER), "not slashed");
    }

    function test_slashesAnotherDetail() public {
        (Receipt memory a, Receipt memory b) = (receiptOf(1, 100), receiptOf(1, 100));
        b.detail = keccak256("another");
        slashOn(a, b);
    }

    function test_slashesAnotherStatus() public {
        (Receipt memory a, Receipt memory b) = (receiptOf(1, 100), receiptOf(1, 100));
        b.status = 1;
        slashOn(a, b);
    }

    function test_slashesAnotherRunningTotal() public {
        slashOn(receiptOf(1, 100), receiptOf(1, 101));
    }

    function test_slashesTwoLeavesOfOneBatch() public {
        Terms memory terms = termsOf(RUNNER);
        (Receipt memory a, Receipt memory b) = (receiptOf(1, 100), receiptOf(1, 200));
        stakes.slash(terms, signedPair(RUNNER, terms, a, b, 0), signedPair(RUNNER, terms, a, b, 1));
        require(isSlashed(RUNNER), "not slashed");
    }

    function testFuzz_divides_everyLastUnit(uint96 more) public {
        uint256 total = bound(more, 0, type(uint96).max - 1_000);
        if (total > 0) put(RUNNER, total);
        total += 1_000;
        slash(RUNNER);
        (uint256 toBuyer, uint256 toReporter, uint256 burned) =
            (stakes.owed(BUYER), stakes.owed(REPORTER), stakes.owed(stakes.BURN()));
        assertEq(toBuyer, total * 4_000 / 10_000);
        assertEq(toReporter, total / 10);
        assertEq(toBuyer + toReporter + burned, total);
        require(burned >= total / 2, "too little burned");
        assertEq(amountOf(RUNNER), 0);
    }

    function test_slashesAKeyOnce() public {
        slash(RUNNER);
        (Terms memory terms, SignedReceipt memory a, SignedReceipt memory b) = proofOf(RUNNER);
        try stakes.slash(terms, b, a) {
            require(false, "slashed twice");
        } catch (bytes memory reason) {
            assertEq(keccak256(reason), keccak256(abi.encodeWithSelector(Stake.RunnerWasSlashed.selector, vm.addr(RUNNER))));
        }
        assertEq(stakes.owed(REPORTER), 100);
    }

    function test_takesNoStakeAfterASlash() public {
        slash(RUNNER);
        token.mint(address(this), 5);
        try stakes.stake(vm.addr(RUNNER), 5) {
            require(false, "staked");
        } catch (bytes memory reason) {
            assertEq(keccak256(reason), keccak256(abi.encodeWithSelector(Stake.RunnerWasSlashed.selector, vm.addr(RUNNER))));
        }
        assertEq(token.balanceOf(address(this)), 5);
    }

    function test_marksAKeyWithoutAStake() public {
        registry.see(vm.addr(OTHER), PROVIDER);
        slash(OTHER);
        require(isSlashed(OTHER), "not marked");
        assertEq(stakes.owed(REPORTER), 0);
        try stakes.pay(REPORTER) {
            require(false, "paid nothing");
        } catch (bytes memory reason) {
            assertEq(bytes32(bytes4(reason)), bytes32(Stake.NothingToPay.selector));
        }
    }

    function test_slashesDuringAnExit() public {
        vm.prank(PROVIDER);
        stakes.requestExit(vm.addr(RUNNER), 1_000);
        vm.warp(vm.getBlockTimestamp() + 14 days);
        slash(RUNNER);
        vm.prank(PROVIDER);
        try stakes.exit(vm.addr(RUNNER), PROVIDER) {
            require(false, "left after a slash");
        } catch (bytes memory reason) {
            assertEq(bytes32(bytes4(reason)), bytes32(Stake.NotRequested.selector));
        }
        assertEq(stakes.owed(BUYER) + stakes.owed(REPORTER) + stakes.owed(stakes.BURN()), 1_000);
    }

    /// @dev Provider, buyer and reporter in one pocket: the way out costs the burned half.
    function test_slashingOneselfLosesTheBurnedShare() public {
        Terms memory terms = termsOf(RUNNER);
        terms.buyer = PROVIDER;
        SignedReceipt memory a = signed(RUNNER, terms, receiptOf(1, 100));
        SignedReceipt memory b = signed(RUNNER, terms, receiptOf(1, 200));
        vm.prank(PROVIDER);
        stakes.slash(terms, a, b);
        vm.prank(PROVIDER);
        stakes.withdraw(PROVIDER);
        assertEq(token.balanceOf(PROVIDER), 500);
        stakes.pay(stakes.BURN());
        assertEq(token.balanceOf(stakes.BURN()), 500);
        assertEq(token.balanceOf(address(stakes)), 0);
    }

    function test_paysWhatNobodyIsOwedToTheBurn() public {
        Terms memory terms = termsOf(RUNNER);
        terms.buyer = address(0);
        SignedReceipt memory a = signed(RUNNER, terms, receiptOf(1, 100));
        SignedReceipt memory b = signed(RUNNER, terms, receiptOf(1, 200));
        stakes.slash(terms, a, b);
        stakes.pay(address(0));
        stakes.pay(stakes.BURN());
        stakes.pay(address(this));
        assertEq(token.balanceOf(stakes.BURN()), 900);
        assertEq(token.balanceOf(address(this)), 100);
    }

    function test_paysTheBuyerWhoeverAsks_once() public {
        slash(RUNNER);
        vm.prank(REPORTER);
        stakes.pay(BUYER);
        assertEq(token.balanceOf(BUYER), 400);
        vm.prank(BUYER);
        try stakes.withdraw(BUYER) {
            require(false, "paid twice");
        } catch (bytes memory reason) {
            assertEq(bytes32(bytes4(reason)), bytes32(Stake.NothingToPay.selector));
        }
    }
}

/// @notice Brings stakes in and out.
contract StakeTest is StakeSetup {
    function setUp() public {
        deploy();
    }

    function failsWith(bytes memory call, address sender, bytes memory reason) private {
        vm.prank(sender);
        (bool ok, bytes memory got) = address(stakes).call(call);
        require(!ok, "went through");
        assertEq(keccak256(got), keccak256(reason));
    }

    function test_refusesNothingAndStrangers() public {
        address runner = vm.addr(RUNNER);
        failsWith(
            abi.encodeCall(Stake.stake, (runner, 0)), address(this), abi.encodeWithSelector(Stake.NothingStaked.selector)
        );
        failsWith(
            abi.encodeCall(Stake.stake, (vm.addr(OTHER), 1)),
            address(this),
            abi.encodeWithSelector(Stake.RunnerUnknown.selector, vm.addr(OTHER))
        );
        put(RUNNER, 1_000);
        bytes memory notTheProvider = abi.encodeWithSelector(Stake.NotTheProvider.selector, PROVIDER);
        failsWith(abi.encodeCall(Stake.requestExit, (runner, 1)), address(this), notTheProvider);
        failsWith(abi.encodeCall(Stake.requestExit, (runner, 1)), runner, notTheProvider);
        failsWith(
            abi.encodeCall(Stake.requestExit, (runner, 1_001)), PROVIDER, abi.encodeWithSelector(Stake.NothingStaked.selector)
        );
        failsWith(
            abi.encodeCall(Stake.exit, (runner, PROVIDER)), PROVIDER, abi.encodeWithSelector(Stake.NotRequested.selector)
        );
        vm.prank(PROVIDER);
        stakes.requestExit(runner, 1);
        vm.warp(vm.getBlockTimestamp() + 14 days);
        failsWith(abi.encodeCall(Stake.exit, (runner, address(this))), address(this), notTheProvider);
        // A runner nobody registered has no provider, not even the zero address.
        failsWith(
            abi.encodeCall(Stake.exit, (vm.addr(OTHER), address(this))),
            address(0),
            abi.encodeWithSelector(Stake.NotTheProvider.selector, address(0))
        );
    }

    function test_refusesMoreThanFits() public {
        put(RUNNER, type(uint96).max);
        token.mint(address(this), 1);
        failsWith(
            abi.encodeCall(Stake.stake, (vm.addr(RUNNER), 1)),
            address(this),
            abi.encodeWithSelector(Stake.AmountTooLarge.selector, 1)
        );
    }

    function test_exitWaitsLongerThanTheDisputeWindow() public {
        put(RUNNER, 1_000);
        require(stakes.EXIT_DELAY() > stakes.DISPUTE_WINDOW(), "exits come first");
        vm.prank(PROVIDER);
        stakes.requestExit(vm.addr(RUNNER), 400);
        uint256 at = vm.getBlockTimestamp() + 14 days;
        vm.warp(at - 1);
        failsWith(
            abi.encodeCall(Stake.exit, (vm.addr(RUNNER), PROVIDER)),
            PROVIDER,
            abi.encodeWithSelector(Stake.TooEarly.selector, at)
        );
        vm.warp(at);
        vm.prank(PROVIDER);
        stakes.exit(vm.addr(RUNNER), address(0x77));
        assertEq(token.balanceOf(address(0x77)), 400);
        assertEq(amountOf(RUNNER), 600);
        failsWith(
            abi.encodeCall(Stake.exit, (vm.addr(RUNNER), PROVIDER)),
            PROVIDER,
            abi.encodeWithSelector(Stake.NotRequested.selector)
        );
    }

    function test_askingAgainBeginsTheDelayAnew_andAskingForNothingTakesItBack() public {
        put(RUNNER, 1_000);
        vm.prank(PROVIDER);
        stakes.requestExit(vm.addr(RUNNER), 1);
        vm.warp(vm.getBlockTimestamp() + 14 days);
        vm.prank(PROVIDER);
        stakes.requestExit(vm.addr(RUNNER), 1_000);
        failsWith(
            abi.encodeCall(Stake.exit, (vm.addr(RUNNER), PROVIDER)),
            PROVIDER,
            abi.encodeWithSelector(Stake.TooEarly.selector, vm.getBlockTimestamp() + 14 days)
        );
        vm.prank(PROVIDER);
        stakes.requestExit(vm.addr(RUNNER), 0);
        (uint256 amount, uint256 exiting, uint256 at, bool slashed) = stakes.stakes(vm.addr(RUNNER));
        assertEq(amount, 1_000);
        assertEq(exiting + at, 0);
        require(!slashed, "slashed");
        vm.warp(vm.getBlockTimestamp() + 15 days);
        failsWith(
            abi.encodeCall(Stake.exit, (vm.addr(RUNNER), PROVIDER)),
            PROVIDER,
            abi.encodeWithSelector(Stake.NotRequested.selector)
        );
    }

    /// @dev An exit asked for long ago can be finished at any moment, so what it takes vouches for nothing.
    function test_coverLeavesOutWhatAnArmedExitCanTake() public {
        address runner = vm.addr(RUNNER);
        put(RUNNER, 1_000);
        assertEq(stakes.cover(runner, vm.getBlockTimestamp() + 7 days), 1_000);
        assertEq(stakes.cover(runner, vm.getBlockTimestamp() + 14 days), 1_000);
        assertEq(stakes.cover(runner, vm.getBlockTimestamp() + 14 days + 1), 0);
        vm.prank(PROVIDER);
        stakes.requestExit(runner, 400);
        uint256 at = vm.getBlockTimestamp() + 14 days;
        assertEq(stakes.cover(runner, at), 1_000);
        vm.warp(at - 7 days + 1);
        assertEq(stakes.cover(runner, vm.getBlockTimestamp() + 7 days), 600);
        vm.warp(at + 365 days);
        assertEq(stakes.cover(runner, vm.getBlockTimestamp()), 600);
        slash(RUNNER);
        assertEq(stakes.cover(runner, vm.getBlockTimestamp()), 0);
    }

    /// @dev What cover shows for a time is there at that time, whatever the provider does meanwhile.
    function testFuzz_coverHolds(uint256 armed, uint256 armedFor, uint256 ahead, uint256 waits) public {
        address runner = vm.addr(RUNNER);
        put(RUNNER, 1_000);
        vm.prank(PROVIDER);
        stakes.requestExit(runner, bound(armed, 0, 1_000));
        vm.warp(vm.getBlockTimestamp() + bound(armedFor, 0, 30 days));
        uint256 until = vm.getBlockTimestamp() + bound(ahead, 0, 20 days);
        uint256 promised = stakes.cover(runner, until);
        if (waits & 1 == 1) {
            vm.prank(PROVIDER);
            stakes.requestExit(runner, 1_000);
        }
        if (until > vm.getBlockTimestamp()) vm.warp(until - 1);
        vm.prank(PROVIDER);
        try stakes.exit(runner, PROVIDER) {} catch {}
        require(amountOf(RUNNER) >= promised, "less than promised");
    }

    function test_refusesATokenThatKeepsAPart() public {
        TollToken toll = new TollToken();
        Stake on = new Stake(toll, RunnerRegistry(address(registry)));
        toll.mint(address(this), 1_000);
        toll.approve(address(on), 1_000);
        try on.stake(vm.addr(RUNNER), 1_000) {
            require(false, "staked");
        } catch (bytes memory reason) {
            assertEq(keccak256(reason), keccak256(abi.encodeWithSelector(Stake.TokenTakesFees.selector, 1_000, 990)));
        }
    }

    /// @dev A token that calls back in the middle of a transfer gets nothing out of it: neither counted twice nor paid twice.
    function test_reentry() public {
        CallingToken calling = new CallingToken();
        Stake on = new Stake(calling, RunnerRegistry(address(registry)));
        address runner = vm.addr(RUNNER);
        registry.see(runner, address(calling));
        calling.mint(address(this), 1_000);
        calling.mint(address(calling), 1_000);
        calling.approve(address(on), 1_000);
        vm.prank(address(calling));
        calling.approve(address(on), 1_000);

        calling.aim(address(on), abi.encodeCall(Stake.stake, (runner, 500)));
        try on.stake(runner, 500) {
            require(false, "counted twice");
        } catch (bytes memory reason) {
            assertEq(bytes32(bytes4(reason)), bytes32(Stake.TokenTakesFees.selector));
        }
        calling.aim(address(0), "");
        on.stake(runner, 1_000);
        vm.prank(address(calling));
        on.requestExit(runner, 600);
        vm.warp(vm.getBlockTimestamp() + 14 days);
        calling.aim(address(on), abi.encodeCall(Stake.exit, (runner, address(calling))));
        vm.prank(address(calling));
        on.exit(runner, address(calling));
        require(!calling.succeeded(), "left twice");
        assertEq(calling.balanceOf(address(on)), 400);
        (uint256 left,,,) = on.stakes(runner);
        assertEq(left, 400);
    }
}

/// @dev Does what anyone could do, in any order.
contract StakeHandler is StakeSetup {
    uint256[4] private keys = [uint256(0xA1), 0xA2, 0xA3, 0xA4];
    bool public leftEarly;
    bool public burnedTooLittle;
    address private immutable owner = msg.sender;

    constructor() {
        deploy();
        for (uint256 i = 0; i < keys.length; i++) registry.see(vm.addr(keys[i]), PROVIDER);
    }

    function parts() external view returns (TestToken, Stake) {
        return (token, stakes);
    }

    function stakeSome(uint256 which, uint64 amount) external {
        uint256 key = keys[which % 4];
        if (amount > 0 && !isSlashed(key)) put(key, amount);
    }

    function requestExit(uint256 which, uint256 amount) external {
        uint256 key = keys[which % 4];
        uint256 asked = bound(amount, 0, amountOf(key));
        vm.prank(PROVIDER);
        stakes.requestExit(vm.addr(key), asked);
    }

    function exitAt(uint256 which, uint256 wait) external {
        address runner = vm.addr(keys[which % 4]);
        vm.warp(vm.getBlockTimestamp() + bound(wait, 0, 20 days));
        (, uint256 exiting, uint256 at,) = stakes.stakes(runner);
        vm.prank(PROVIDER);
        try stakes.exit(runner, PROVIDER) {
            if (vm.getBlockTimestamp() < at || exiting == 0) leftEarly = true;
        } catch {}
    }

    function slashOne(uint256 which) external {
        uint256 key = keys[which % 4];
        // Rarely, or nothing would be left to stake on.
        if (which % 3 != 0 || isSlashed(key)) return;
        uint256 amount = amountOf(key);
        uint256 before = stakes.owed(stakes.BURN());
        slash(key);
        if (stakes.owed(stakes.BURN()) - before < amount / 2) burnedTooLittle = true;
    }

    function pay(uint256 which) external {
        address payee = payees()[which % 3];
        if (stakes.owed(payee) > 0) stakes.pay(payee);
    }

    function payees() private view returns (address[3] memory) {
        return [BUYER, REPORTER, stakes.BURN()];
    }

    function books() public view returns (uint256 sum) {
        for (uint256 i = 0; i < keys.length; i++) sum += amountOf(keys[i]);
        for (uint256 i = 0; i < 3; i++) sum += stakes.owed(payees()[i]);
    }

    /// @dev Everybody leaves; nothing may be left behind.
    function leaveAll() external {
        if (msg.sender != owner) return;
        for (uint256 i = 0; i < keys.length; i++) {
            if (amountOf(keys[i]) == 0) continue;
            address runner = vm.addr(keys[i]);
            uint256 amount = amountOf(keys[i]);
            vm.prank(PROVIDER);
            stakes.requestExit(runner, amount);
            vm.warp(vm.getBlockTimestamp() + 14 days);
            vm.prank(PROVIDER);
            stakes.exit(runner, PROVIDER);
        }
        for (uint256 i = 0; i < 3; i++) {
            if (stakes.owed(payees()[i]) > 0) stakes.pay(payees()[i]);
        }
    }
}

contract StakeInvariants is Test {
    StakeHandler private handler;
    TestToken private token;
    Stake private stakes;

    function setUp() public {
        handler = new StakeHandler();
        (token, stakes) = handler.parts();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_tokenBalanceIsStakesAndDebts() public view {
        assertEq(token.balanceOf(address(stakes)), handler.books());
    }

    function invariant_nobodyLeavesEarly() public view {
        require(!handler.leftEarly(), "left early");
    }

    function invariant_aSlashBurnsHalf() public view {
        require(!handler.burnedTooLittle(), "burned too little");
    }

    /// @dev Runs once a run, at its end, so that leaving does not empty the books the other checks are about.
    function afterInvariant() public {
        handler.leaveAll();
        assertEq(token.balanceOf(address(stakes)), 0);
    }
}
