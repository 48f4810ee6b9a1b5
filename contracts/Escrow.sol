// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Proof, Protocol, Receipt, Terms} from "./Protocol.sol";
import {RunnerRegistry} from "./RunnerRegistry.sol";

/// @notice Takes deposits with an authorization (EIP-3009).
interface IERC3009 {
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}

/// @notice Holds buyers' deposits and pays for inferences: on a runner's receipt and a buyer's voucher, both, and on nothing else.
/// @dev No owner, no proxy, no pause: nobody can touch a balance but by these functions. Anyone may settle for anyone.
contract Escrow {
    using SafeERC20 for IERC20;

    /// @notice Says how one claim ended.
    enum Status {
        Settled,
        Partial,
        NothingNew,
        BadVoucher,
        BadReceipt,
        RunnerInactive,
        Expired,
        BadTerms,
        NoFunds
    }

    /// @notice Claims what one channel owes: the terms, the receipt with the highest running total, and the buyer's highest voucher.
    struct Claim {
        Terms terms;
        Receipt receipt;
        uint128 voucher;
        bytes voucherSignature;
    }

    struct Account {
        uint128 balance;
        uint128 requested;
        uint64 withdrawableAt;
    }

    /// @notice A claim can be settled until this long after its terms expire; then the buyer owes nothing more.
    uint256 public constant CLAIM_WINDOW = 1 days;
    uint256 private constant BPS = 10_000;
    uint256 private constant ERC1271_GAS = 100_000;

    IERC20 public immutable token;
    RunnerRegistry public immutable registry;
    address public immutable treasury;
    uint16 public immutable feeBps;
    uint64 public immutable withdrawalDelay;
    bytes32 public immutable domainSeparator;

    mapping(address buyer => Account) public accounts;
    mapping(address payee => uint256) public earnings;
    mapping(bytes32 channel => uint128) public settled;

    event Deposited(address indexed from, address indexed buyer, uint256 amount);
    event WithdrawalRequested(address indexed buyer, uint256 amount, uint64 withdrawableAt);
    event Withdrawn(address indexed buyer, uint256 amount);
    event EarningsWithdrawn(address indexed payee, address indexed to, uint256 amount);
    event Paid(
        bytes32 indexed channel,
        address indexed buyer,
        address indexed runner,
        address provider,
        address publisher,
        uint256 toProvider,
        uint256 toPublisher,
        uint256 toTreasury,
        uint128 settledTotal
    );
    event ClaimRefused(bytes32 indexed channel, Status status);

    error FeeTooHigh(uint16 feeBps);
    error NothingDeposited();
    error AmountTooLarge(uint256 amount);
    error TokenTakesFees(uint256 expected, uint256 received);
    error NotRequested();
    error TooEarly(uint64 withdrawableAt);
    error NothingToWithdraw();
    error NoClaims();

    constructor(IERC20 token_, RunnerRegistry registry_, address treasury_, uint16 feeBps_, uint64 withdrawalDelay_) {
        require(feeBps_ <= 1_000, FeeTooHigh(feeBps_));
        token = token_;
        registry = registry_;
        treasury = treasury_;
        feeBps = feeBps_;
        withdrawalDelay = withdrawalDelay_;
        domainSeparator = Protocol.domainSeparator(address(this));
    }

    /// @notice Deposits for oneself or another, after an ERC-20 approval.
    function deposit(address buyer, uint256 amount) public {
        require(amount > 0, NothingDeposited());
        require(amount <= type(uint128).max, AmountTooLarge(amount));
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(msg.sender, address(this), amount);
        credit(buyer, amount, before);
    }

    /// @notice Deposits with an EIP-2612 permit. A permit somebody else has already used leaves its allowance, which is enough.
    function depositWithPermit(address buyer, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external {
        try IERC20Permit(address(token)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        deposit(buyer, amount);
    }

    /// @notice Deposits with an EIP-3009 authorization of the buyer; anyone may send it, the buyer is credited.
    function depositWithAuthorization(
        address buyer,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external {
        require(amount > 0, NothingDeposited());
        require(amount <= type(uint128).max, AmountTooLarge(amount));
        uint256 before = token.balanceOf(address(this));
        IERC3009(address(token)).receiveWithAuthorization(
            buyer, address(this), amount, validAfter, validBefore, nonce, signature
        );
        credit(buyer, amount, before);
    }

    /// @dev Measures what arrived: a token that keeps a part of each transfer would leave the books short.
    function credit(address buyer, uint256 amount, uint256 before) private {
        uint256 received = token.balanceOf(address(this)) - before;
        require(received == amount, TokenTakesFees(amount, received));
        accounts[buyer].balance += uint128(amount);
        emit Deposited(msg.sender, buyer, amount);
    }

    /// @notice Asks for money back. It can be withdrawn after the delay; until then settlements may still draw on it.
    function requestWithdrawal(uint128 amount) external {
        Account storage account = accounts[msg.sender];
        require(amount > 0 && amount <= account.balance, NothingToWithdraw());
        account.requested = amount;
        account.withdrawableAt = uint64(block.timestamp) + withdrawalDelay;
        emit WithdrawalRequested(msg.sender, amount, account.withdrawableAt);
    }

    /// @notice Pays out what was asked for, or what settlements have left of it.
    function withdraw() external {
        Account storage account = accounts[msg.sender];
        require(account.requested > 0, NotRequested());
        require(block.timestamp >= account.withdrawableAt, TooEarly(account.withdrawableAt));
        uint128 amount = account.requested < account.balance ? account.requested : account.balance;
        account.requested = 0;
        account.withdrawableAt = 0;
        account.balance -= amount;
        emit Withdrawn(msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Pays out what the caller has earned.
    function withdrawEarnings(address to) external {
        uint256 amount = earnings[msg.sender];
        require(amount > 0, NothingToWithdraw());
        earnings[msg.sender] = 0;
        emit EarningsWithdrawn(msg.sender, to, amount);
        token.safeTransfer(to, amount);
    }

    /// @notice Settles many channels of one runner: all leaves of one batch, one signature. A bad claim never stops the others.
    function settle(Claim[] calldata claims, bytes calldata batchSignature) external returns (Status[] memory statuses) {
        require(claims.length > 0, NoClaims());
        bytes32[] memory channels = new bytes32[](claims.length);
        bytes32[] memory leaves = new bytes32[](claims.length);
        for (uint256 i = 0; i < claims.length; i++) {
            channels[i] = Protocol.channelOf(domainSeparator, claims[i].terms);
            leaves[i] = Protocol.leaf(channels[i], claims[i].receipt);
        }
        bytes32 digest = Protocol.batchDigest(domainSeparator, Protocol.merkleRoot(leaves), uint32(claims.length));
        address signer = Protocol.recover(digest, batchSignature);
        statuses = new Status[](claims.length);
        for (uint256 i = 0; i < claims.length; i++) {
            statuses[i] = settleClaim(claims[i], channels[i], signer);
        }
    }

    /// @notice Settles one channel from any batch, with the receipt's Merkle proof.
    function settleOne(Claim calldata claim, Proof calldata proof, bytes calldata batchSignature) external returns (Status) {
        bytes32 channel = Protocol.channelOf(domainSeparator, claim.terms);
        bytes32 root = Protocol.rootFromProof(Protocol.leaf(channel, claim.receipt), proof);
        bytes32 digest = Protocol.batchDigest(domainSeparator, root, proof.count);
        return settleClaim(claim, channel, root == 0 ? address(0) : Protocol.recover(digest, batchSignature));
    }

    function settleClaim(Claim calldata claim, bytes32 channel, address signer) private returns (Status status) {
        (Status verdict, uint128 amount, address provider) = judge(claim, channel, signer);
        if (amount == 0) {
            emit ClaimRefused(channel, verdict);
            return verdict;
        }
        Terms calldata terms = claim.terms;
        uint128 total = settled[channel] + amount;
        settled[channel] = total;
        accounts[terms.buyer].balance -= amount;

        // Rounds royalty and fee down; the provider gets the remainder, so the three sum to the amount.
        uint256 royalty = uint256(amount) * terms.royaltyBps / BPS;
        uint256 fee = uint256(amount) * feeBps / BPS;
        earnings[provider] += amount - royalty - fee;
        if (royalty > 0) earnings[terms.publisher] += royalty;
        if (fee > 0) earnings[treasury] += fee;
        emit Paid(
            channel, terms.buyer, terms.runner, provider, terms.publisher, amount - royalty - fee, royalty, fee, total
        );
        return verdict;
    }

    /// @notice Tells how a claim would end, with the signer its batch recovers to: the same code path as settling.
    function preview(Claim calldata claim, address signer) external view returns (Status status, uint128 amount) {
        (status, amount,) = judge(claim, Protocol.channelOf(domainSeparator, claim.terms), signer);
    }

    /// @dev Pays the smaller of receipt and voucher, less what was settled, as far as the deposit reaches.
    function judge(Claim calldata claim, bytes32 channel, address signer)
        private
        view
        returns (Status status, uint128 amount, address provider)
    {
        Terms calldata terms = claim.terms;
        if (signer == address(0) || signer != terms.runner) return (Status.BadReceipt, 0, address(0));
        if (terms.feeBps != feeBps || uint256(terms.royaltyBps) + feeBps > BPS) return (Status.BadTerms, 0, address(0));
        if (claim.receipt.finishedAt > terms.expiresAt || block.timestamp > uint256(terms.expiresAt) + CLAIM_WINDOW) {
            return (Status.Expired, 0, address(0));
        }
        bool active;
        (provider, active) = registry.providerAt(terms.runner, claim.receipt.finishedAt);
        if (!active || claim.receipt.finishedAt > block.timestamp + registry.CLOCK_SKEW()) {
            return (Status.RunnerInactive, 0, provider);
        }
        uint128 before = settled[channel];
        uint128 owed = claim.receipt.cumulative < claim.voucher ? claim.receipt.cumulative : claim.voucher;
        if (owed <= before) return (Status.NothingNew, 0, provider);
        if (!signedBy(terms.buyer, Protocol.voucherDigest(domainSeparator, channel, claim.voucher), claim.voucherSignature)) {
            return (Status.BadVoucher, 0, provider);
        }
        amount = owed - before;
        uint128 balance = accounts[terms.buyer].balance;
        if (balance == 0) return (Status.NoFunds, 0, provider);
        if (balance < amount) return (Status.Partial, balance, provider);
        return (Status.Settled, amount, provider);
    }

    /// @dev A buyer with code speaks for itself (ERC-1271) and is never taken for a key, even where a key could be found.
    function signedBy(address buyer, bytes32 digest, bytes calldata signature) private view returns (bool) {
        if (buyer.code.length == 0) return Protocol.recover(digest, signature) == buyer && buyer != address(0);
        (bool ok, bytes memory answer) =
            buyer.staticcall{gas: ERC1271_GAS}(abi.encodeCall(IERC1271.isValidSignature, (digest, signature)));
        return ok && answer.length == 32 && abi.decode(answer, (bytes32)) == bytes32(IERC1271.isValidSignature.selector);
    }
}
