// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Proof, Protocol, Receipt, Terms} from "./Protocol.sol";
import {RunnerRegistry} from "./RunnerRegistry.sol";

/// @notice Shows one receipt and the batch that signs it.
struct SignedReceipt {
    Receipt receipt;
    Proof proof;
    bytes batchSignature;
}

/// @notice Holds what providers stake on their runner keys, and takes it where a key has signed two different receipts for one job.
/// @dev No owner, no guardian, no proxy: a stake leaves by its provider's exit or by a proof, and nobody can stop either.
///      Warning: whoever breaks a runner can be buyer and reporter of its own slash, and so get back all but the burned share. Only that
///      share deters for certain. Warning: proofs are public once sent, so another reporter may come first; the buyer's share stays the same.
contract Stake {
    using SafeERC20 for IERC20;

    /// @dev One slot. `exiting` is a part of `amount`; the clock of an exit runs once, so whoever armed one long ago can leave at once.
    struct Position {
        uint96 amount;
        uint96 exiting;
        uint56 withdrawableAt;
        bool slashed;
    }

    /// @notice A receipt's signer keeps, for this long after it signed, all that `cover` showed when it did.
    uint256 public constant DISPUTE_WINDOW = 7 days;
    /// @notice An exit waits this long: the dispute window, and a week in which a report can be censored or a clock be wrong.
    uint256 public constant EXIT_DELAY = 14 days;
    /// @notice The shares of a slash, in ten-thousandths: burned, to the harmed buyer, to the reporter.
    uint256 public constant BURNED_BPS = 5_000;
    uint256 public constant BUYER_BPS = 4_000;
    uint256 public constant REPORTER_BPS = 1_000;
    /// @notice What is burned goes here, where no key is known: money that came back to anybody could come back to whoever was slashed.
    address public constant BURN = 0x000000000000000000000000000000000000dEaD;
    uint256 private constant BPS = 10_000;

    IERC20 public immutable token;
    RunnerRegistry public immutable registry;
    /// @notice The escrow's domain, under which runners sign. On a chain that split off, the receipts of the chain it was made on count.
    bytes32 public immutable domainSeparator;

    mapping(address runner => Position) private positions;
    /// @notice What slashes owe and `pay` has not paid yet.
    mapping(address payee => uint256) public owed;

    event Staked(address indexed from, address indexed runner, uint256 amount);
    event ExitRequested(address indexed runner, uint256 amount, uint256 withdrawableAt);
    event Exited(address indexed runner, address indexed to, uint256 amount);
    event Slashed(
        address indexed runner,
        bytes32 indexed channel,
        address indexed reporter,
        uint64 job,
        address buyer,
        uint256 toBuyer,
        uint256 toReporter,
        uint256 burned
    );
    event Paid(address indexed payee, address indexed to, uint256 amount);

    error NothingStaked();
    error AmountTooLarge(uint256 amount);
    error TokenTakesFees(uint256 expected, uint256 received);
    error RunnerUnknown(address runner);
    error RunnerWasSlashed(address runner);
    error NotTheProvider(address provider);
    error NotRequested();
    error TooEarly(uint256 withdrawableAt);
    error NothingToPay();
    error DifferentJobs(uint64 first, uint64 second);
    error NothingDiffers();
    error NotInBatch();
    error WrongSigner(address signer);

    constructor(IERC20 token_, RunnerRegistry registry_) {
        token = token_;
        registry = registry_;
        domainSeparator = Protocol.domainSeparator(registry_.escrow());
    }

    // Stakes

    /// @notice Adds to a runner's stake, after an ERC-20 approval. Anyone may; it belongs to the provider the registry names for that key,
    ///         whom a key keeps for ever.
    function stake(address runner, uint256 amount) external {
        require(amount > 0, NothingStaked());
        require(providerOf(runner) != address(0), RunnerUnknown(runner));
        require(!positions[runner].slashed, RunnerWasSlashed(runner));
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = token.balanceOf(address(this)) - before;
        require(received == amount, TokenTakesFees(amount, received));
        Position storage position = positions[runner];
        uint256 total = position.amount + amount;
        require(total <= type(uint96).max, AmountTooLarge(amount));
        position.amount = uint96(total);
        emit Staked(msg.sender, runner, amount);
    }

    /// @notice Asks for a part of a runner's stake back, in place of what was asked before; asking for nothing takes the request back. All of
    ///         it can be slashed until it is withdrawn.
    function requestExit(address runner, uint256 amount) external {
        Position storage position = positions[runner];
        requireProvider(runner);
        require(amount <= position.amount, NothingStaked());
        position.exiting = uint96(amount);
        position.withdrawableAt = amount == 0 ? 0 : uint56(block.timestamp + EXIT_DELAY);
        emit ExitRequested(runner, amount, position.withdrawableAt);
    }

    /// @notice Pays out what was asked for, once the delay has passed.
    function exit(address runner, address to) external {
        Position storage position = positions[runner];
        requireProvider(runner);
        uint96 amount = position.exiting;
        require(amount > 0, NotRequested());
        require(block.timestamp >= position.withdrawableAt, TooEarly(position.withdrawableAt));
        position.amount -= amount;
        position.exiting = 0;
        position.withdrawableAt = 0;
        emit Exited(runner, to, amount);
        token.safeTransfer(to, amount);
    }

    /// @notice Shows a runner's stake, what of it was asked back, from when that can be withdrawn, and whether the key was slashed.
    function stakes(address runner)
        external
        view
        returns (uint256 amount, uint256 exiting, uint256 withdrawableAt, bool slashed)
    {
        Position storage position = positions[runner];
        return (position.amount, position.exiting, position.withdrawableAt, position.slashed);
    }

    /// @notice Tells what of a runner's stake nobody can withdraw before a time in unix seconds: what vouches for a receipt signed now, asked
    ///         for now + `DISPUTE_WINDOW`. Zero beyond now + `EXIT_DELAY`, as an exit may be asked for at any moment.
    function cover(address runner, uint256 until) external view returns (uint256) {
        Position storage position = positions[runner];
        if (until > block.timestamp + EXIT_DELAY) return 0;
        return position.withdrawableAt < until ? position.amount - position.exiting : position.amount;
    }

    // Slashing

    /// @notice Takes a runner's whole stake on two receipts of one channel and one job that differ in status, running total or detail, each in
    ///         a batch the runner's key signed. A key is slashed once, with whatever is staked, even nothing; it never takes a stake again.
    /// @dev Two times of the same work are no proof: a receipt signed again after a crash may finish later. `detail` commits to input,
    ///      output, execution and price. It does not matter whether the key is attested still, nor whether an exit has begun.
    function slash(Terms calldata terms, SignedReceipt calldata first, SignedReceipt calldata second) external {
        address runner = terms.runner;
        Position storage position = positions[runner];
        require(!position.slashed, RunnerWasSlashed(runner));
        Receipt calldata a = first.receipt;
        Receipt calldata b = second.receipt;
        require(a.job == b.job, DifferentJobs(a.job, b.job));
        require(a.status != b.status || a.cumulative != b.cumulative || a.detail != b.detail, NothingDiffers());
        bytes32 channel = Protocol.channelOf(domainSeparator, terms);
        requireSigned(runner, channel, first);
        requireSigned(runner, channel, second);

        uint256 amount = position.amount;
        positions[runner] = Position(0, 0, 0, true);
        // Both rounded down and the remainder burned, so the three sum to the stake.
        uint256 toBuyer = amount * BUYER_BPS / BPS;
        uint256 toReporter = amount * REPORTER_BPS / BPS;
        uint256 burned = amount - toBuyer - toReporter;
        owed[terms.buyer] += toBuyer;
        owed[msg.sender] += toReporter;
        owed[BURN] += burned;
        emit Slashed(runner, channel, msg.sender, a.job, terms.buyer, toBuyer, toReporter, burned);
    }

    /// @notice Pays out what slashes owe the caller, wherever it says.
    function withdraw(address to) external {
        payOut(msg.sender, to);
    }

    /// @notice Pays out what slashes owe to whom they owe it. Anyone may, so a contract that knows nothing of this one gets its share, and the
    ///         burned share is burned. What is owed to nobody's address, zero, is burned too.
    function pay(address payee) external {
        payOut(payee, payee == address(0) ? BURN : payee);
    }

    function payOut(address payee, address to) private {
        uint256 amount = owed[payee];
        require(amount > 0, NothingToPay());
        owed[payee] = 0;
        emit Paid(payee, to, amount);
        token.safeTransfer(to, amount);
    }

    function requireSigned(address runner, bytes32 channel, SignedReceipt calldata signed) private view {
        bytes32 root = Protocol.rootFromProof(Protocol.leaf(channel, signed.receipt), signed.proof);
        require(root != 0, NotInBatch());
        address signer =
            Protocol.recover(Protocol.batchDigest(domainSeparator, root, signed.proof.count), signed.batchSignature);
        require(signer != address(0) && signer == runner, WrongSigner(signer));
    }

    function requireProvider(address runner) private view {
        address provider = providerOf(runner);
        require(provider != address(0) && msg.sender == provider, NotTheProvider(provider));
    }

    function providerOf(address runner) private view returns (address provider) {
        (provider,) = registry.providerAt(runner, 0);
    }
}
