// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Claim, Claims, Listing} from "./Claims.sol";
import {Inbox} from "./Inbox.sol";
import {Protocol} from "./Protocol.sol";
import {RunnerRegistry} from "./RunnerRegistry.sol";
import {IFollowsStandings, Standings} from "./Standings.sol";

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
/// @dev No owner and no proxy: nobody can touch a balance but by these functions, and the guardian can refuse new deposits and nothing
///      else. Anyone may settle for anyone. `Claims` says how claims are packed.
contract Escrow is Standings, IFollowsStandings {
    using SafeERC20 for IERC20;
    using Claims for Claims.Batch;
    using Claims for Claim;
    using Claims for Listing;

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
        NoFunds,
        MandateExceeded
    }

    /// @dev One slot holds what a settlement touches. `keyed` remembers that a voucher of the address's own key was seen while it had no
    ///      code, or had lent itself to code: such an address has a key, so no contract of its own making can ever stand there.
    struct Account {
        uint128 balance;
        uint120 requested;
        bool keyed;
        uint64 withdrawableAt;
    }

    /// @dev One slot: what settlements have paid and nobody has divided yet, and the attestation of the runner that the last of them rested on,
    ///      so that the next need not ask for it. The amount cannot reach the attestation: a deposit credits at most 120 bits, and 2^56 of them,
    ///      each some ten thousand gas, will never be made.
    struct Pot {
        uint176 amount;
        uint32 registeredAt;
        uint32 validUntil;
        uint16 workloadIndex;
    }

    /// @notice Names a pot: what settlements have paid for one runner and one publisher at one royalty.
    struct PotName {
        address runner;
        address publisher;
        uint16 royaltyBps;
    }

    /// @notice Bounds what a key may spend of a buyer's deposit: in all, in one channel, until when, on which models.
    struct Mandate {
        uint128 cap;
        uint128 spent;
        uint128 channelCap;
        uint64 expiresAt;
        uint32 version;
        bool anyModel;
    }

    /// @notice A claim can be settled until this long after its terms expire; then the buyer owes nothing more, unless the runner's
    ///         workload was stopped meanwhile and taken up again in time (`RunnerRegistry.claimableUntil`).
    uint256 public constant CLAIM_WINDOW = 1 days;
    uint256 private constant BPS = 10_000;
    uint256 private constant ERC1271_GAS = 100_000;
    uint256 private constant KEYED = 1 << 248;
    uint256 private constant AMOUNT = type(uint176).max;
    uint256 private constant REGISTERED_AT = 176;
    uint256 private constant VALID_UNTIL = 208;
    uint256 private constant WORKLOAD_INDEX = 240;

    IERC20 public immutable token;
    RunnerRegistry public immutable registry;
    address public immutable treasury;
    address public immutable guardian;
    uint16 public immutable feeBps;
    uint64 public immutable withdrawalDelay;
    bytes32 public immutable domainSeparator;
    uint256 private immutable clockSkew;

    /// @notice Whether new deposits are refused. Settlements and withdrawals never are.
    bool public depositsPaused;

    mapping(address buyer => Account) private accountOf;
    mapping(address payee => uint256) public earnings;
    mapping(bytes32 channel => uint256) private settledOf;
    mapping(bytes32 pot => Pot) private potOf;
    mapping(address buyer => mapping(address key => Mandate)) public mandates;
    mapping(bytes32 grant => bool) private modelGranted;

    event Deposited(address indexed from, address indexed buyer, uint256 amount);
    event DepositsPaused(bool paused);
    event WithdrawalRequested(address indexed buyer, uint256 amount, uint64 withdrawableAt);
    event Withdrawn(address indexed buyer, uint256 amount);
    event EarningsWithdrawn(address indexed payee, address indexed to, uint256 amount);
    event Authorized(address indexed buyer, address indexed key, uint128 cap, uint128 channelCap, uint64 expiresAt, bool anyModel);
    event Revoked(address indexed buyer, address indexed key);
    /// @notice Records the payments of one listing in one settlement. Each payment is 84 bytes: channel, buyer, amount, total settled.
    event Settled(address indexed runner, address indexed publisher, uint16 royaltyBps, bytes payments);
    event ClaimRefused(bytes32 indexed channel, Status status);
    event Distributed(
        address indexed runner,
        address indexed provider,
        address indexed publisher,
        uint16 royaltyBps,
        uint256 toProvider,
        uint256 toPublisher,
        uint256 toTreasury
    );

    error FeeTooHigh(uint16 feeBps);
    error NothingDeposited();
    error AmountTooLarge(uint256 amount);
    error TokenTakesFees(uint256 expected, uint256 received);
    error DepositsArePaused();
    error NotGuardian();
    error NotRequested();
    error TooEarly(uint64 withdrawableAt);
    error NothingToWithdraw();
    error BadMandate();

    constructor(
        IERC20 token_,
        RunnerRegistry registry_,
        address treasury_,
        address guardian_,
        uint16 feeBps_,
        uint64 withdrawalDelay_
    ) {
        require(feeBps_ <= 1_000, FeeTooHigh(feeBps_));
        token = token_;
        registry = registry_;
        treasury = treasury_;
        guardian = guardian_;
        feeBps = feeBps_;
        withdrawalDelay = withdrawalDelay_;
        domainSeparator = Protocol.domainSeparator(address(this));
        clockSkew = registry_.CLOCK_SKEW();
        followStanding();
    }

    // What the registry says

    /// @notice Copies from the registry which registrations stand. The registry has it done with every change; anyone may.
    function followStanding() public {
        (standing.killedAt, standing.policyEpoch, standing.approvals) = registry.standing();
    }

    /// @notice Copies from the registry which workloads of a page are approved. The registry has it done with every change; anyone may.
    function followApprovals(uint256 page) external {
        laterApprovals[page] = registry.laterApprovals(page);
    }

    // Deposits

    /// @notice Deposits for oneself or another, after an ERC-20 approval.
    function deposit(address buyer, uint256 amount) public {
        uint256 before = open(amount);
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
        uint256 before = open(amount);
        IERC3009(address(token)).receiveWithAuthorization(
            buyer, address(this), amount, validAfter, validBefore, nonce, signature
        );
        credit(buyer, amount, before);
    }

    /// @notice Names the address at which tokens are a buyer's whoever sends them: `depositFromInbox` credits what lies there.
    function inboxOf(address buyer) public view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(Inbox).creationCode, abi.encode(token)));
        bytes32 hash = keccak256(abi.encodePacked(bytes1(0xff), address(this), saltOf(buyer), code));
        return address(uint160(uint256(hash)));
    }

    /// @notice Credits a buyer with what was sent to its inbox: plain transfers, and EIP-3009 transfers whoever sent them. Anyone may call,
    ///         also while deposits are paused: what lies there has no other way out than by the buyer's account.
    function depositFromInbox(address buyer) external {
        address inbox = inboxOf(buyer);
        uint256 amount = token.balanceOf(inbox);
        uint256 before = measure(amount);
        if (inbox.code.length == 0) new Inbox{salt: saltOf(buyer)}(token);
        token.safeTransferFrom(inbox, address(this), amount);
        credit(buyer, amount, before);
    }

    function saltOf(address buyer) private pure returns (bytes32) {
        return bytes32(uint256(uint160(buyer)));
    }

    /// @notice Refuses new deposits, or takes them again. Exits stay open whatever the guardian does.
    function pauseDeposits(bool paused) external {
        require(msg.sender == guardian, NotGuardian());
        depositsPaused = paused;
        emit DepositsPaused(paused);
    }

    function open(uint256 amount) private view returns (uint256 before) {
        require(!depositsPaused, DepositsArePaused());
        return measure(amount);
    }

    function measure(uint256 amount) private view returns (uint256 before) {
        require(amount > 0, NothingDeposited());
        require(amount <= type(uint120).max, AmountTooLarge(amount));
        before = token.balanceOf(address(this));
    }

    /// @dev Measures what arrived: a token that keeps a part of each transfer would leave the books short.
    function credit(address buyer, uint256 amount, uint256 before) private {
        uint256 received = token.balanceOf(address(this)) - before;
        require(received == amount, TokenTakesFees(amount, received));
        uint256 balance = accountOf[buyer].balance + amount;
        require(balance <= type(uint120).max, AmountTooLarge(amount));
        accountOf[buyer].balance = uint128(balance);
        emit Deposited(msg.sender, buyer, amount);
    }

    // Exits

    /// @notice Shows a buyer's deposit, what of it was asked back, and from when that can be withdrawn.
    function accounts(address buyer) external view returns (uint128 balance, uint128 requested, uint64 withdrawableAt) {
        Account storage account = accountOf[buyer];
        return (account.balance, account.requested, account.withdrawableAt);
    }

    /// @notice Asks for money back. It can be withdrawn after the delay; until then settlements may still draw on it.
    function requestWithdrawal(uint128 amount) external {
        Account storage account = accountOf[msg.sender];
        require(amount > 0 && amount <= account.balance, NothingToWithdraw());
        account.requested = uint120(amount);
        account.withdrawableAt = uint64(block.timestamp) + withdrawalDelay;
        emit WithdrawalRequested(msg.sender, amount, account.withdrawableAt);
    }

    /// @notice Pays out what was asked for, or what settlements have left of it.
    function withdraw() external {
        Account storage account = accountOf[msg.sender];
        require(account.requested > 0, NotRequested());
        require(block.timestamp >= account.withdrawableAt, TooEarly(account.withdrawableAt));
        uint128 amount = account.requested < account.balance ? account.requested : account.balance;
        account.requested = 0;
        account.withdrawableAt = 0;
        account.balance -= amount;
        emit Withdrawn(msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Pays out what the caller has earned. What settlements have paid is divided by `distribute` first.
    function withdrawEarnings(address to) external {
        uint256 amount = earnings[msg.sender];
        require(amount > 0, NothingToWithdraw());
        earnings[msg.sender] = 0;
        emit EarningsWithdrawn(msg.sender, to, amount);
        token.safeTransfer(to, amount);
    }

    /// @notice Shows what a channel has been paid in all.
    function settled(bytes32 channel) external view returns (uint128) {
        return uint128(settledOf[channel]);
    }

    /// @notice Shows what settlements have paid and nobody has divided yet, by `potId`.
    function pots(bytes32 pot) external view returns (uint256) {
        return potOf[pot].amount;
    }

    /// @notice Names the pot of a runner and a publisher at one royalty.
    function potId(address runner, address publisher, uint16 royaltyBps) public pure returns (bytes32 pot) {
        // keccak256(abi.encode(runner, publisher, royaltyBps)), without making room for it and naming its length: 180 gas less.
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, shr(96, shl(96, runner)))
            mstore(add(at, 0x20), shr(96, shl(96, publisher)))
            mstore(add(at, 0x40), and(royaltyBps, 0xffff))
            pot := keccak256(at, 0x60)
        }
    }

    /// @notice Divides an amount by a royalty and the fee: both rounded down, the provider gets the remainder, so the three sum to it.
    function divide(uint256 amount, uint16 royaltyBps)
        public
        view
        returns (uint256 toProvider, uint256 toPublisher, uint256 toTreasury)
    {
        toPublisher = amount * royaltyBps / BPS;
        toTreasury = amount * feeBps / BPS;
        toProvider = amount - toPublisher - toTreasury;
    }

    /// @notice Divides what settlements have paid into the pot of a runner and a publisher. Anyone may, at any time.
    /// @dev A settlement writes one pot instead of three balances: a third of what it would cost, paid back once in many.
    function distribute(address runner, address publisher, uint16 royaltyBps) external {
        require(share(runner, publisher, royaltyBps), NothingToWithdraw());
    }

    /// @notice Divides several pots. Those that hold nothing are passed over, so that nobody can stop the others by dividing one before.
    function distributeMany(PotName[] calldata names) external {
        for (uint256 i = 0; i < names.length; i++) {
            share(names[i].runner, names[i].publisher, names[i].royaltyBps);
        }
    }

    function share(address runner, address publisher, uint16 royaltyBps) private returns (bool) {
        Pot storage pot = potOf[potId(runner, publisher, royaltyBps)];
        uint256 amount = pot.amount;
        if (amount == 0) return false;
        pot.amount = 0;
        (uint256 toProvider, uint256 toPublisher, uint256 toTreasury) = divide(amount, royaltyBps);
        // One runner has one provider for ever, and had it when it earned this.
        (address provider,,,,,) = registry.runners(runner);
        earnings[provider] += toProvider;
        if (toPublisher > 0) earnings[publisher] += toPublisher;
        if (toTreasury > 0) earnings[treasury] += toTreasury;
        emit Distributed(runner, provider, publisher, royaltyBps, toProvider, toPublisher, toTreasury);
        return true;
    }

    // Mandates

    /// @notice Lets a key spend of the caller's deposit within bounds. Naming it again starts anew: what it spent before counts no more,
    ///         and models granted before are granted no more.
    function authorize(address key, uint128 cap, uint128 channelCap, uint64 expiresAt, bool anyModel, bytes32[] calldata models)
        external
    {
        require(key != address(0) && key != msg.sender && cap > 0 && channelCap > 0 && expiresAt > block.timestamp, BadMandate());
        Mandate storage mandate = mandates[msg.sender][key];
        uint32 version = mandate.version + 1;
        mandates[msg.sender][key] = Mandate(cap, 0, channelCap, expiresAt, version, anyModel);
        for (uint256 i = 0; i < models.length; i++) {
            modelGranted[grantId(msg.sender, key, version, models[i])] = true;
        }
        emit Authorized(msg.sender, key, cap, channelCap, expiresAt, anyModel);
    }

    /// @notice Takes a key's mandate away at once. Vouchers of it that are not settled yet are worth nothing from now on.
    function revoke(address key) external {
        Mandate storage mandate = mandates[msg.sender][key];
        require(mandate.cap > 0, BadMandate());
        mandate.cap = 0;
        mandate.expiresAt = 0;
        emit Revoked(msg.sender, key);
    }

    function grantId(address buyer, address key, uint32 version, bytes32 model) private pure returns (bytes32) {
        return keccak256(abi.encode(buyer, key, version, model));
    }

    /// @notice Tells how much a key may still spend in a channel of a model, as of a time in unix seconds.
    function mandateLeft(address buyer, address key, bytes32 model, bytes32 channel, uint64 at) public view returns (uint128) {
        Mandate storage mandate = mandates[buyer][key];
        if (mandate.expiresAt < at || mandate.spent >= mandate.cap) return 0;
        if (!mandate.anyModel && !modelGranted[grantId(buyer, key, mandate.version, model)]) return 0;
        uint128 total = mandate.cap - mandate.spent;
        uint128 before = uint128(settledOf[channel]);
        uint128 inChannel = before >= mandate.channelCap ? 0 : mandate.channelCap - before;
        return total < inChannel ? total : inChannel;
    }

    // Settlement

    /// @notice Settles claims of one runner: a whole batch with all its leaves, or one claim with its Merkle proof; packed as `Claims` says.
    ///         A bad claim never stops the others. Reverts only where the packing itself is wrong.
    /// @dev Its name has the lowest selector of all here, and so is compared first: 800 gas less than the last.
    function settleChannels(bytes calldata packed) external returns (Status[] memory statuses) {
        Claims.Batch memory batch;
        (uint256 count, uint256 listings, Listing listing) = batch.open(packed, domainSeparator, feeBps);
        statuses = newStatuses(count);
        uint256 next = 0;
        unchecked {
            for (uint256 i = listings; i > 0; i--) {
                (listing, next) = settleListing(batch, listing, statuses, next);
            }
        }
        assembly ("memory-safe") {
            return(sub(statuses, 0x20), add(shl(5, mload(statuses)), 0x40))
        }
    }

    /// @dev Statuses lie in memory as they are returned, and are neither cleared nor checked nor copied: 700 gas less for one claim, 200 for
    ///      each more. Every one is written by `put` before it is read.
    function newStatuses(uint256 count) private pure returns (Status[] memory statuses) {
        assembly ("memory-safe") {
            statuses := add(mload(0x40), 0x20)
            mstore(sub(statuses, 0x20), 0x20)
            mstore(statuses, count)
            mstore(0x40, add(statuses, shl(5, add(count, 1))))
        }
    }

    function put(Status[] memory statuses, uint256 index, Status status) private pure {
        assembly ("memory-safe") {
            mstore(add(statuses, shl(5, add(index, 1))), status)
        }
    }

    /// @dev Settles one listing's claims: payments go into one pot and one event.
    function settleListing(Claims.Batch memory batch, Listing listing, Status[] memory statuses, uint256 next)
        private
        returns (Listing, uint256)
    {
        uint256 size = listing.size();
        (Pot storage pot, uint256 held) = recall(batch, listing);
        bytes memory payments = Claims.newPayments(size);
        Claim claim = listing.firstOf();
        uint256 sum = 0;
        // No amount exceeds a balance of 120 bits, so no sum of 65,535 exceeds 256.
        unchecked {
            for (uint256 end = next + size; next < end; next++) {
                bytes32 channel = batch.channelAt(next);
                (Status status, uint128 amount, uint128 total, address key, uint256 account) =
                    judge(batch, listing, claim, channel, batch.signed);
                put(statuses, next, status);
                if (amount == 0) {
                    emit ClaimRefused(channel, status);
                } else {
                    address buyer = claim.buyer();
                    settledOf[channel] = total;
                    // One write: the amount is never more than the balance, which stands lowest.
                    store(accountOf[buyer], (claim.kind() == Claims.KEY ? account | KEYED : account) - amount);
                    if (key != address(0)) mandates[buyer][key].spent += amount;
                    sum += amount;
                    Claims.addPayment(payments, channel, buyer, amount, total);
                }
                claim = claim.following();
            }
        }
        if (sum > 0) {
            unchecked {
                store(pot, (batch.learned == 0 ? held : held & AMOUNT | batch.learned) + sum);
            }
            emit Settled(batch.runner, listing.publisher(), listing.royaltyBps(), payments);
        }
        return (Listing.wrap(Claim.unwrap(claim)), next);
    }

    /// @dev Reads a listing's pot, and what it remembers of the runner where that still stands. What calls in between see and do changes
    ///      nothing in it: they cannot write.
    function recall(Claims.Batch memory batch, Listing listing) private view returns (Pot storage pot, uint256 held) {
        pot = potOf[potId(batch.runner, listing.publisher(), listing.royaltyBps())];
        held = load(pot);
        (batch.remembered, batch.learned) = (standingOnly(held), 0);
    }

    /// @notice Tells how claims would end and what each would be paid, whoever signed the batch: the same code path as settling.
    /// @dev Each claim is judged by itself, so two that draw on one deposit may both be promised what only one can get.
    function preview(bytes calldata packed) external view returns (Status[] memory statuses, uint128[] memory amounts) {
        Claims.Batch memory batch;
        (uint256 count, uint256 listings, Listing listing) = batch.open(packed, domainSeparator, feeBps);
        statuses = new Status[](count);
        amounts = new uint128[](count);
        uint256 next = 0;
        for (uint256 i = listings; i > 0; i--) {
            recall(batch, listing);
            Claim claim = listing.firstOf();
            for (uint256 end = next + listing.size(); next < end; next++) {
                (statuses[next], amounts[next],,,) = judge(batch, listing, claim, batch.channelAt(next), true);
                claim = claim.following();
            }
            listing = Listing.wrap(Claim.unwrap(claim));
        }
    }

    /// @dev Pays the smaller of receipt and voucher, less what was settled, as far as deposit and mandate reach. `total` is what the channel has
    ///      then been paid, `key` the mandated key that signed, zero where the buyer did, `account` the buyer's slot as it was.
    function judge(Claims.Batch memory batch, Listing listing, Claim claim, bytes32 channel, bool signed)
        private
        view
        returns (Status status, uint128 amount, uint128 total, address key, uint256 account)
    {
        unchecked {
            if (!signed) return (Status.BadReceipt, 0, 0, key, account);
            if (uint256(listing.royaltyBps()) + feeBps > BPS) return (Status.BadTerms, 0, 0, key, account);
            uint64 finishedAt = claim.finishedAt();
            uint64 expiresAt = claim.expiresAt();
            if (finishedAt > expiresAt || lapsed(batch.runner, expiresAt)) return (Status.Expired, 0, 0, key, account);
            if (!attested(batch, finishedAt)) return (Status.RunnerInactive, 0, 0, key, account);
            uint128 before = uint128(settledOf[channel]);
            uint128 voucher = claim.voucher();
            total = claim.cumulative();
            if (total > voucher) total = voucher;
            if (total <= before) return (Status.NothingNew, 0, 0, key, account);
            address buyer = claim.buyer();
            account = load(accountOf[buyer]);
            bool vouched;
            bytes32 digest = Claims.typed(batch.scratch, Protocol.VOUCHER_TYPE, uint256(channel), voucher);
            (vouched, key) = voucherOf(digest, claim, buyer, account >= KEYED);
            if (!vouched) return (Status.BadVoucher, 0, 0, key, account);
            amount = total - before;
            if (key != address(0)) {
                uint128 left = mandateLeft(buyer, key, listing.model(), channel, finishedAt);
                if (left == 0) return (Status.MandateExceeded, 0, 0, key, account);
                if (left < amount) (amount, status) = (left, Status.Partial);
            }
            uint128 balance = uint128(account);
            if (balance == 0) return (Status.NoFunds, 0, 0, key, account);
            if (balance < amount) (amount, status) = (balance, Status.Partial);
            total = before + amount;
        }
    }

    /// @dev Asks the registry about appeals only where the time is up.
    function lapsed(address runner, uint64 expiresAt) private view returns (bool) {
        unchecked {
            uint256 until = uint256(expiresAt) + CLAIM_WINDOW;
            return block.timestamp > until && block.timestamp > registry.claimableUntil(runner, until);
        }
    }

    /// @dev Work is paid for if the runner was attested when it finished, by what is remembered of it or by what the registry says now, and that
    ///      attestation still stands. The registry is asked once, and only where what is remembered does not reach.
    function attested(Claims.Batch memory batch, uint256 finishedAt) private view returns (bool) {
        unchecked {
            if (finishedAt > block.timestamp + clockSkew) return false;
        }
        if (covers(batch.remembered, finishedAt)) return true;
        if (!batch.asked) (batch.asked, batch.told) = (true, standingOnly(ask(batch.runner)));
        if (!covers(batch.told, finishedAt)) return false;
        batch.learned = batch.told;
        return true;
    }

    /// @dev Gives an attestation as pots keep it. A runner that names no provider has nobody to be paid, and may name another yet.
    function ask(address runner) private view returns (uint256 attestation) {
        (address provider, uint32 registeredAt, uint32 validUntil, uint16 workloadIndex,,) = registry.runners(runner);
        if (provider == address(0)) return 0;
        attestation = uint256(registeredAt) << REGISTERED_AT | uint256(validUntil) << VALID_UNTIL
            | uint256(workloadIndex) << WORKLOAD_INDEX;
    }

    /// @dev Gives an attestation, or zero where its workload was stopped or all of its time were ended. No attestation began at zero.
    function standingOnly(uint256 held) private view returns (uint256) {
        return stands(uint32(held >> REGISTERED_AT), uint16(held >> WORKLOAD_INDEX)) ? held & ~AMOUNT : 0;
    }

    function covers(uint256 attestation, uint256 finishedAt) private view returns (bool) {
        unchecked {
            return attestation != 0 && finishedAt + clockSkew >= uint32(attestation >> REGISTERED_AT)
                && finishedAt <= uint32(attestation >> VALID_UNTIL);
        }
    }

    /// @dev A contract speaks for itself (ERC-1271) and is never taken for a key, even where a key could be found; a mandated key speaks
    ///      within its mandate, which `judge` reads.
    function voucherOf(bytes32 digest, Claim claim, address buyer, bool keyed) private view returns (bool vouched, address key) {
        uint256 kind = claim.kind();
        if (kind == Claims.MANDATE) {
            key = Claims.recover(digest, claim.signature());
            // No mandate names address zero, which no signature stands for.
            return (mandates[buyer][key].cap > 0, key);
        }
        if (kind == Claims.KEY) {
            if (buyer == address(0) || (!keyed && buyer.code.length > 0 && !delegates(buyer))) return (false, address(0));
            return (Claims.recover(digest, claim.signature()) == buyer, address(0));
        }
        if (buyer.code.length == 0) return (false, address(0));
        (bool ok, bytes memory answer) =
            buyer.staticcall{gas: ERC1271_GAS}(abi.encodeCall(IERC1271.isValidSignature, (digest, claim.walletSignature())));
        vouched = ok && answer.length == 32 && abi.decode(answer, (bytes32)) == bytes32(IERC1271.isValidSignature.selector);
    }

    /// @dev Tells whether an address is a key's that has lent itself to code (EIP-7702): nobody can deploy code that begins with 0xEF
    ///      (EIP-3541). Otherwise a buyer could take answers and then delegate to code that vouches for nothing.
    function delegates(address buyer) private view returns (bool) {
        return buyer.code.length == 23 && bytes3(buyer.code) == 0xEF0100;
    }

    /// @dev The slots that settling touches are read and written whole: member by member the compiler reads and writes them twice.
    function load(Account storage account) private view returns (uint256 slot) {
        assembly ("memory-safe") {
            slot := sload(account.slot)
        }
    }

    function store(Account storage account, uint256 slot) private {
        assembly ("memory-safe") {
            sstore(account.slot, slot)
        }
    }

    function load(Pot storage pot) private view returns (uint256 slot) {
        assembly ("memory-safe") {
            slot := sload(pot.slot)
        }
    }

    function store(Pot storage pot, uint256 slot) private {
        assembly ("memory-safe") {
            sstore(pot.slot, slot)
        }
    }
}
