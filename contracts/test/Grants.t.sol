// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Test} from "./Test.sol";
import {AttestedInference} from "../AttestedInference.sol";
import {Inbox} from "../Inbox.sol";
import {Detail, Proof, Receipt, Terms} from "../Protocol.sol";
import {Stake} from "../Stake.sol";
import {TestToken} from "../TestToken.sol";
import {Grants, Inference, Opening} from "../examples/Grants.sol";

/// @dev Answers as what a grant asks: whether an inference holds, and what stands behind it. The real ones are asked in `test/contracts/consumer.test.ts`.
contract Asked {
    error DoesNotHold();

    IERC20 public immutable token;
    uint256 public constant DISPUTE_WINDOW = 7 days;
    uint256 private covered;
    bool private fails;

    constructor(IERC20 token_) {
        token = token_;
    }

    function answer(uint256 covered_, bool fails_) external {
        (covered, fails) = (covered_, fails_);
    }

    /// @dev Cover is promised for one moment only: when the disputes about an answer of now end.
    function cover(address, uint256 until) external view returns (uint256) {
        return until == block.timestamp + DISPUTE_WINDOW ? covered : 0;
    }

    function verify(Terms calldata terms, Receipt calldata, Detail calldata, Proof calldata, bytes calldata)
        external
        view
        returns (bytes32)
    {
        require(!fails, DoesNotHold());
        return keccak256(abi.encode(terms));
    }
}

/// @notice Checks that a grant is paid on the answer it asks for, once, and goes back when nobody earned it.
contract GrantsTest is Test {
    uint256 private constant NOW = 1_800_000_000;
    bytes private constant QUESTION = "canonical question";
    bytes private constant SHAPE = "one number:";
    uint32 private constant THREE_QUARTERS = 0x3F400000;
    address private constant BENEFICIARY = address(0x1006);

    TestToken private token;
    Asked private asked;
    Grants private grants;

    function setUp() public {
        vm.chainId(31337);
        vm.warp(NOW);
        token = new TestToken();
        asked = new Asked(token);
        asked.answer(1_000, false);
        grants = new Grants(AttestedInference(address(asked)), Stake(address(asked)));
        token.mint(address(this), 10_000);
        token.approve(address(grants), type(uint256).max);
    }

    function grant() private view returns (Grants.Grant memory) {
        return Grants.Grant({
            sponsor: address(this),
            beneficiary: BENEFICIARY,
            amount: 500,
            cover: 1_000,
            expiresAt: uint64(NOW + 1 hours),
            threshold: THREE_QUARTERS,
            model: keccak256("model"),
            question: keccak256(QUESTION),
            shape: keccak256(SHAPE)
        });
    }

    /// @dev The number as tensors write it, least byte first.
    function scored(uint32 bits) private pure returns (bytes memory) {
        return abi.encodePacked(SHAPE, uint8(bits), uint8(bits >> 8), uint8(bits >> 16), uint8(bits >> 24));
    }

    function commitment(Opening memory opening) private pure returns (bytes32) {
        return sha256(abi.encodePacked("ASY1tens", opening.salt, opening.tensors));
    }

    struct Shown {
        Inference ran;
        Opening input;
        Opening output;
    }

    function shown(bytes memory output) private pure returns (Shown memory it) {
        it.input = Opening(keccak256("salt in"), QUESTION);
        it.output = Opening(keccak256("salt out"), output);
        it.ran.terms.model = keccak256("model");
        it.ran.terms.runner = address(0x1003);
        it.ran.receipt.job = 1;
        it.ran.receipt.finishedAt = uint64(NOW);
        it.ran.detail.input = commitment(it.input);
        it.ran.detail.output = commitment(it.output);
    }

    function earnCall(Shown memory it) private view returns (bytes memory) {
        return abi.encodeCall(grants.earn, (0, it.ran, it.input, it.output));
    }

    function refused(bytes memory call, bytes memory with) private {
        (bool ok, bytes memory answer) = address(grants).call(call);
        require(!ok, "went through");
        assertEq(keccak256(answer), keccak256(with));
        assertEq(token.balanceOf(BENEFICIARY), 0);
    }

    function refused(Shown memory it, bytes memory with) private {
        refused(earnCall(it), with);
    }

    function earn(Shown memory it) private {
        grants.earn(0, it.ran, it.input, it.output);
    }

    function test_open_byItsSponsorWithMoneyAndAScoreThereIs() public {
        bytes memory bad = abi.encodePacked(Grants.BadGrant.selector);
        Grants.Grant memory wanted = grant();
        wanted.sponsor = address(9);
        refused(abi.encodeCall(grants.open, (wanted)), bad);
        wanted = grant();
        wanted.amount = 0;
        refused(abi.encodeCall(grants.open, (wanted)), bad);
        wanted = grant();
        wanted.threshold = 0x7F800000;
        refused(abi.encodeCall(grants.open, (wanted)), bad);
        wanted.threshold = 0x7F7FFFFF;
        assertEq(grants.open(wanted), 0);
        assertEq(grants.open(grant()), 1);
        assertEq(token.balanceOf(address(grants)), 1_000);
    }

    function test_earn_paysTheBeneficiaryOnce() public {
        grants.open(grant());
        vm.prank(address(9));
        earn(shown(scored(THREE_QUARTERS)));
        assertEq(token.balanceOf(BENEFICIARY), 500);
        Shown memory again = shown(scored(THREE_QUARTERS));
        again.ran.receipt.job = 2;
        (bool ok, bytes memory answer) = address(grants).call(earnCall(again));
        require(!ok && bytes4(answer) == Grants.NothingToPay.selector, "paid twice");
    }

    function test_earn_takesEachJobOnce() public {
        grants.open(grant());
        grants.open(grant());
        Shown memory it = shown(scored(THREE_QUARTERS));
        earn(it);
        bytes memory call = abi.encodeCall(grants.earn, (1, it.ran, it.input, it.output));
        (bool ok, bytes memory answer) = address(grants).call(call);
        require(!ok, "taken twice");
        bytes memory used = abi.encodeWithSelector(Grants.AlreadyUsed.selector, keccak256(abi.encode(it.ran.terms)), uint64(1));
        assertEq(keccak256(answer), keccak256(used));
        it.ran.receipt.job = 2;
        grants.earn(1, it.ran, it.input, it.output);
        assertEq(token.balanceOf(BENEFICIARY), 1_000);
    }

    function test_earn_onWhatHoldsOnly() public {
        grants.open(grant());
        asked.answer(1_000, true);
        refused(shown(scored(THREE_QUARTERS)), abi.encodePacked(Asked.DoesNotHold.selector));
    }

    function test_earn_ofAnotherModel() public {
        grants.open(grant());
        Shown memory it = shown(scored(THREE_QUARTERS));
        it.ran.terms.model = keccak256("another");
        refused(it, abi.encodeWithSelector(Grants.WrongModel.selector, keccak256("another")));
    }

    function test_earn_withinADay() public {
        grants.open(grant());
        Shown memory it = shown(scored(THREE_QUARTERS));
        vm.warp(NOW + 1 days + 1);
        refused(it, abi.encodeWithSelector(Grants.TooOld.selector, uint64(NOW)));
        vm.warp(NOW + 1 days);
        earn(it);
        assertEq(token.balanceOf(BENEFICIARY), 500);
    }

    function test_earn_behindEnoughStake() public {
        grants.open(grant());
        asked.answer(999, false);
        refused(shown(scored(THREE_QUARTERS)), abi.encodeWithSelector(Grants.TooLittleCover.selector, 999));
        asked.answer(1_000, false);
        earn(shown(scored(THREE_QUARTERS)));
    }

    function test_earn_onTheQuestionAsked() public {
        grants.open(grant());
        bytes memory wrong = abi.encodePacked(Grants.WrongInput.selector);
        Shown memory it = shown(scored(THREE_QUARTERS));
        it.input.tensors = "another question";
        refused(it, wrong);
        it.ran.detail.input = commitment(it.input);
        refused(it, wrong);
        it = shown(scored(THREE_QUARTERS));
        it.input.salt = 0;
        refused(it, wrong);
    }

    function test_earn_onTheAnswerGiven() public {
        grants.open(grant());
        bytes memory wrong = abi.encodePacked(Grants.WrongOutput.selector);
        Shown memory it = shown(scored(THREE_QUARTERS));
        it.output.tensors = scored(THREE_QUARTERS + 1);
        refused(it, wrong);
        refused(shown(abi.encodePacked("two numbers", scored(THREE_QUARTERS))), wrong);
        refused(shown(abi.encodePacked(SHAPE, hex"0000403f00")), wrong);
    }

    /// @dev Shorter than a number: what precedes it in the call must not be read as one.
    function test_earn_onAnAnswerTooShort() public {
        bytes memory wrong = abi.encodePacked(Grants.WrongOutput.selector);
        Grants.Grant memory wanted = grant();
        wanted.shape = keccak256("");
        grants.open(wanted);
        refused(shown(""), wrong);
        refused(shown(hex"00403f"), wrong);
        earn(shown(hex"0000403f"));
    }

    function test_earn_onAScoreHighEnough() public {
        grants.open(grant());
        uint32[6] memory low = [THREE_QUARTERS - 1, 0, 0x7F800000, 0x7FC00000, 0x80000000, 0xBF400000];
        for (uint256 i = 0; i < low.length; i++)
            refused(shown(scored(low[i])), abi.encodeWithSelector(Grants.ScoreTooLow.selector, low[i]));
        earn(shown(scored(0x7F7FFFFF)));
        assertEq(token.balanceOf(BENEFICIARY), 500);
    }

    function test_reclaim_afterItExpired() public {
        grants.open(grant());
        bytes memory call = abi.encodeCall(grants.reclaim, (0));
        vm.warp(NOW + 1 hours);
        refused(call, abi.encodeWithSelector(Grants.TooEarly.selector, uint64(NOW + 1 hours)));
        vm.warp(NOW + 1 hours + 1);
        vm.prank(address(9));
        grants.reclaim(0);
        assertEq(token.balanceOf(address(this)), 10_000);
        refused(call, abi.encodePacked(Grants.NothingToPay.selector));
    }
}

/// @notice Checks the token of local chains, and an inbox of it.
contract TestTokenTest is Test {
    bytes32 private constant TRANSFER =
        keccak256("TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)");
    uint256 private constant OWNER = 0xA11CE;
    uint256 private constant NOW = 1_800_000_000;

    TestToken private token;

    function setUp() public {
        vm.chainId(31337);
        vm.warp(NOW);
        token = new TestToken();
        token.mint(vm.addr(OWNER), 1_000);
    }

    function test_token_onLocalChainsOnly() public {
        vm.chainId(1337);
        new TestToken();
        vm.chainId(1);
        try new TestToken() {
            require(false, "was made");
        } catch {}
        assertEq(token.decimals(), 6);
    }

    function test_inbox_letsItsMakerTakeWhatIsSentThere() public {
        Inbox inbox = new Inbox(token);
        vm.prank(vm.addr(OWNER));
        token.transfer(address(inbox), 400);
        token.transferFrom(address(inbox), address(this), 400);
        assertEq(token.balanceOf(address(this)), 400);
        vm.prank(vm.addr(OWNER));
        token.transfer(address(inbox), 1);
        vm.prank(address(9));
        (bool ok,) = address(token).call(abi.encodeCall(token.transferFrom, (address(inbox), address(9), 1)));
        require(!ok, "somebody else took it");
    }

    struct Authorization {
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    function call(bool receive_, Authorization memory of_, uint256 by) private view returns (bytes memory) {
        address from = vm.addr(OWNER);
        bytes32 kind = receive_
            ? keccak256("ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)")
            : TRANSFER;
        bytes32 what =
            keccak256(abi.encode(kind, from, address(this), of_.value, of_.validAfter, of_.validBefore, of_.nonce));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(by, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), what)));
        bytes memory signature = abi.encodePacked(r, s, v);
        return receive_
            ? abi.encodeCall(
                token.receiveWithAuthorization,
                (from, address(this), of_.value, of_.validAfter, of_.validBefore, of_.nonce, signature)
            )
            : abi.encodeCall(
                token.transferWithAuthorization,
                (from, address(this), of_.value, of_.validAfter, of_.validBefore, of_.nonce, signature)
            );
    }

    function invalid(bytes memory data) private {
        (bool ok, bytes memory answer) = address(token).call(data);
        require(!ok && bytes4(answer) == TestToken.AuthorizationInvalid.selector, "went through");
    }

    function test_authorization_movesMoneyOnceWithinItsTime() public {
        for (uint256 kind = 0; kind < 2; kind++) {
            bool receive_ = kind == 1;
            bytes32 nonce = bytes32(kind);
            invalid(call(receive_, Authorization(100, NOW, NOW + 1, nonce), OWNER));
            invalid(call(receive_, Authorization(100, NOW - 1, NOW, nonce), OWNER));
            invalid(call(receive_, Authorization(100, NOW - 1, NOW + 1, nonce), OWNER + 1));
            bytes memory good = call(receive_, Authorization(100, NOW - 1, NOW + 1, nonce), OWNER);
            (bool ok,) = address(token).call(good);
            require(ok, "was refused");
            assertEq(token.balanceOf(address(this)), 100 * (kind + 1));
            invalid(good);
            invalid(call(receive_, Authorization(200, NOW - 1, NOW + 1, nonce), OWNER));
        }
    }

    function test_authorization_onlyThePayeeReceives() public {
        bytes memory good = call(true, Authorization(100, NOW - 1, NOW + 1, 0), OWNER);
        vm.prank(address(9));
        invalid(good);
        good = call(false, Authorization(100, NOW - 1, NOW + 1, 0), OWNER);
        vm.prank(address(9));
        (bool ok,) = address(token).call(good);
        require(ok && token.balanceOf(address(this)) == 100, "was refused");
    }

    /// @dev What recovers to nobody is nobody's authorization.
    function test_authorization_ofNobody() public {
        invalid(
            abi.encodeCall(token.transferWithAuthorization, (address(0), address(this), 0, NOW - 1, NOW + 1, 0, new bytes(65)))
        );
    }
}
