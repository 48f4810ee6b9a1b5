// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MeasurementPolicy} from "./MeasurementPolicy.sol";
import {Protocol} from "./Protocol.sol";
import {Bytes} from "./attestation/Bytes.sol";
import {Issuers} from "./attestation/Issuers.sol";
import {Quotes} from "./attestation/Quotes.sol";

/// @notice Keeps the attested runners. A TDX quote is verified here from the vendor's root to its levels, so nobody has to be believed about
///         it; runners of other kinds come in by the verdict of a set of verifiers, and are marked as such.
/// @dev Warning: a registration stands until it lapses (at most `MAX_TTL`), even if collateral posted meanwhile would refuse it; the
///      policy's owner can end a workload, or all registrations, at once.
contract RunnerRegistry is Quotes {
    /// @notice Fills one storage slot per runner.
    struct Runner {
        address provider;
        uint32 registeredAt;
        uint32 validUntil;
        uint16 workloadIndex;
        uint8 tee; // 0 TDX verified here, else by verdict: 1 TDX, 2 SEV-SNP, 3 Nitro; plus 128 with an attested GPU
        uint8 status;
    }

    /// @notice Carries what the chain does not know of the statement a quote vouches for, and the provider the runner's key names.
    struct Claim {
        bytes32 signerX; // secp256k1
        bytes32 signerY;
        bytes32 hpkeKey;
        bytes32 gpuEvidence;
        uint64 nonceBlock; // the block whose hash is the statement's nonce
        uint64 notAfter; // unix seconds
        address provider;
        bytes32 r; // the runner's key signs Registration; a compact signature (EIP-2098)
        bytes32 yParityAndS;
    }

    uint256 public constant MAX_TTL = 1 days;
    /// @notice Tolerates this much difference between the runner's clock and the chain's, either way.
    uint256 public constant CLOCK_SKEW = 5 minutes;
    address private constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935; // EIP-2935

    address public immutable escrow;
    /// @notice The only sender whose verdicts count; see `VerifierSet`.
    address public immutable verifiers;
    bool public immutable development;
    uint256 private immutable madeOn;
    bytes32 private immutable madeDomain;

    mapping(address signer => Runner) public runners;

    event RunnerRegistered(
        address indexed runner, address indexed provider, bytes32 indexed workload, uint40 validUntil, bytes32 evidence
    );

    error DevelopmentRootOnRealChain(uint256 chainId);
    error StatusNotAllowed(uint8 status);
    error ReportDataMismatch();
    error StatementExpired(uint64 notAfter);
    error NonceNotRecent();
    error WorkloadNotApproved(bytes32 workload);
    error NotSignedByRunner();
    error ProviderMismatch(address provider);
    error NotTheVerifiers(address sender);
    error PolicyEpochPassed(uint16 policyEpoch);
    error VerdictExpired(uint32 validUntil);
    error EscrowDidNotFollow();

    /// @param owner who keeps the policy
    /// @param development_ true for a development root, which only stands on a local chain
    constructor(
        address owner,
        address escrow_,
        address verifiers_,
        bool development_,
        bytes32 rootX,
        bytes32 rootY,
        bytes32 rootName
    ) MeasurementPolicy(owner) Issuers(rootX, rootY, rootName) {
        require(!development_ || block.chainid == 31337 || block.chainid == 1337, DevelopmentRootOnRealChain(block.chainid));
        escrow = escrow_;
        verifiers = verifiers_;
        development = development_;
        madeOn = block.chainid;
        madeDomain = Protocol.domainSeparator(escrow_);
    }

    /// @notice Registers a runner key, or renews its registration, on a quote that is verified here.
    /// @dev Anyone may send it: the runner's key names the provider, so a copy of the call changes nothing.
    function register(Quote calldata quote, Claim calldata claim) external {
        TcbRules memory inForce = tcbRules;
        bytes calldata body = bodyOf(quote.signed);
        Appraisal memory appraisal = appraise(quote, body, inForce);
        require((inForce.statuses >> appraisal.status) & 1 == 1, StatusNotAllowed(appraisal.status));

        bytes32 workload = workloadOf(body);
        bytes32 digest = statementOf(claim, workload, inForce.killedBlock);
        address signer = address(uint160(uint256(keccak256(abi.encode(claim.signerX, claim.signerY)))));
        checkReportData(body, signer, claim.notAfter, digest);
        checkPossession(signer, claim, digest);
        uint256 until = claim.notAfter < appraisal.validUntil ? claim.notAfter : appraisal.validUntil;
        enter(signer, Runner(claim.provider, 0, uint32(until), 0, 0, appraisal.status), workload, digest);
    }

    /// @notice Registers a runner on the verdict of the verifiers, for evidence no chain can afford to verify.
    /// @param runner provider, expiry, kind and status; its times and position are set here
    /// @param epoch the policy epoch the verdict was given in: an older one ended with the kill switch
    /// @param evidence digest under which the verifiers publish the evidence
    function registerVerdict(address signer, Runner calldata runner, bytes32 workload, uint16 epoch, bytes32 evidence) external {
        require(msg.sender == verifiers, NotTheVerifiers(msg.sender));
        require(epoch == standing.policyEpoch, PolicyEpochPassed(standing.policyEpoch));
        require(runner.validUntil >= block.timestamp, VerdictExpired(runner.validUntil));
        require((tcbRules.statuses >> runner.status) & 1 == 1, StatusNotAllowed(runner.status));
        enter(signer, runner, workload, evidence);
    }

    /// @notice Tells who is paid for a runner's work finished at a time, and whether the runner was attested then and is not revoked now.
    function providerAt(address signer, uint64 finishedAt) external view returns (address provider, bool active) {
        Runner memory runner = runners[signer];
        provider = runner.provider;
        // 64 bits and five minutes never overflow 256.
        unchecked {
            active = provider != address(0) && finishedAt + CLOCK_SKEW >= runner.registeredAt && finishedAt <= runner.validUntil
                && stands(runner.registeredAt, runner.workloadIndex);
        }
    }

    /// @notice Tells until when a runner's claim can still be made whose time ran out at `lapsed`, because its workload was stopped then
    ///         and taken up again in time; zero where it was not.
    function claimableUntil(address signer, uint256 lapsed) external view returns (uint256) {
        return appealUntil(runners[signer].workloadIndex, lapsed);
    }

    /// @notice Tells whether a runner is attested now.
    function isActiveNow(address signer) external view returns (bool) {
        Runner memory runner = runners[signer];
        return runner.validUntil >= block.timestamp && stands(runner.registeredAt, runner.workloadIndex);
    }

    /// @dev Writes the one slot. A renewal by the same provider for the same workload keeps its beginning, so that work finished before it
    ///      stays payable.
    function enter(address signer, Runner memory runner, bytes32 workload, bytes32 evidence) private {
        Workload memory known = workloads[workload];
        require(known.approved, WorkloadNotApproved(workload));
        runner.workloadIndex = known.index;
        runner.registeredAt = uint32(block.timestamp);
        uint256 longest = block.timestamp + MAX_TTL;
        if (runner.validUntil > longest) runner.validUntil = uint32(longest);
        Runner memory before = runners[signer];
        if (before.provider != address(0)) {
            require(before.provider == runner.provider, ProviderMismatch(before.provider));
            bool renews = before.validUntil >= block.timestamp && before.workloadIndex == known.index
                && stands(before.registeredAt, before.workloadIndex);
            // An earlier attestation, sent again, shortens nothing.
            if (renews && before.validUntil >= runner.validUntil) return;
            if (renews) runner.registeredAt = before.registeredAt;
        }
        store(runners[signer], runner);
        emit RunnerRegistered(signer, runner.provider, workload, runner.validUntil, evidence);
    }

    /// @dev A change the escrow did not hear of would not hold, so it fails.
    function tell(bytes memory change) internal override {
        (bool heard,) = escrow.call(change);
        require(heard, EscrowDidNotFollow());
    }

    /// @dev One write; member by member the compiler makes four.
    function store(Runner storage place, Runner memory runner) private {
        uint256 slot = uint256(uint160(runner.provider)) | uint256(runner.registeredAt) << 160
            | uint256(runner.validUntil) << 192 | uint256(runner.workloadIndex) << 224 | uint256(runner.tee) << 240
            | uint256(runner.status) << 248;
        assembly ("memory-safe") {
            sstore(place.slot, slot)
        }
    }

    /// @dev Everything measured that an operator could vary: MRTD, RTMR0..3, MRCONFIGID, XFAM, TDATTRIBUTES.
    function workloadOf(bytes calldata body) private view returns (bytes32 workload) {
        assembly ("memory-safe") {
            let input := mload(0x40)
            mstore(input, "ASY1wrkl")
            calldatacopy(add(input, 8), add(body.offset, 136), 48)
            calldatacopy(add(input, 56), add(body.offset, 328), 192)
            calldatacopy(add(input, 248), add(body.offset, 184), 48)
            calldatacopy(add(input, 296), add(body.offset, 128), 8)
            calldatacopy(add(input, 304), add(body.offset, 120), 8)
            // The precompile fails only for want of gas, which fails all.
            if iszero(staticcall(gas(), 2, input, 312, 0, 32)) { revert(0, 0) }
            workload := mload(0)
        }
    }

    function checkPossession(address signer, Claim calldata claim, bytes32 digest) private view {
        bytes32 typed = Protocol.registrationDigest(domain(), signer, claim.provider, digest);
        uint8 v = uint8(uint256(claim.yParityAndS) >> 255) + 27;
        bytes32 s = bytes32(uint256(claim.yParityAndS) & type(uint256).max >> 1);
        // A second form of the signature would register the same thing again, so high values of s need no refusal.
        require(signer != address(0) && ecrecover(typed, v, claim.r, s) == signer, NotSignedByRunner());
    }

    /// @dev Computed once, and anew on a chain that has split off since.
    function domain() private view returns (bytes32) {
        return block.chainid == madeOn ? madeDomain : Protocol.domainSeparator(escrow);
    }

    /// @dev Writes the statement as it has to be here: for this chain, this registry, this workload and a recent nonce. Any other has
    ///      another digest, which is not the one in the report data.
    function statementOf(Claim calldata claim, bytes32 workload, uint256 killedBlock) private view returns (bytes32) {
        require(claim.notAfter >= block.timestamp, StatementExpired(claim.notAfter));
        require(claim.nonceBlock > killedBlock, NonceNotRecent());
        return sha256(
            abi.encodePacked(
                development ? bytes8("ASYDstmt") : bytes8("ASY1stmt"),
                uint64(block.chainid),
                address(this),
                uint256(claim.signerY) & 1 == 1 ? bytes1(0x03) : bytes1(0x02),
                claim.signerX,
                claim.hpkeKey,
                recentHash(claim.nonceBlock),
                claim.gpuEvidence,
                workload,
                claim.notAfter
            )
        );
    }

    /// @dev What ties a quote to a statement; virtual only so that a test can measure real quotes, which vouch for other statements.
    function checkReportData(bytes calldata body, address signer, uint64 notAfter, bytes32 digest) internal view virtual {
        bytes4 tag = development ? bytes4("ASYD") : bytes4("ASY1");
        uint256 named = uint256(uint160(signer)) << 96 | uint256(uint32(tag)) << 64 | notAfter;
        require(Bytes.word(body, 520) == named && Bytes.word(body, 552) == uint256(digest), ReportDataMismatch());
    }

    /// @dev The last 256 hashes come from the EVM, older ones (to 8,191) from the history contract where the chain has it.
    function recentHash(uint64 number) private view returns (bytes32 hash) {
        hash = blockhash(number);
        // Where the chain has none, nobody answers, and nothing is no hash.
        if (hash == 0 && number < block.number) {
            (bool ok, bytes memory answer) = HISTORY.staticcall(abi.encode(uint256(number)));
            if (ok && answer.length == 32) hash = abi.decode(answer, (bytes32));
        }
        require(hash != 0, NonceNotRecent());
    }
}
