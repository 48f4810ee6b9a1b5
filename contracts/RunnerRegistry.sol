// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MeasurementPolicy} from "./MeasurementPolicy.sol";
import {Protocol} from "./Protocol.sol";
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

    /// @notice Carries the statement a quote vouches for, and the provider the runner's key names.
    struct Claim {
        bytes statement; // 205 bytes
        uint64 nonceBlock; // the block whose hash is the statement's nonce
        bytes32 signerY; // the signer's key is compressed in the statement
        address provider;
        bytes signature; // of the runner's key over Registration
    }

    uint256 public constant MAX_TTL = 1 days;
    /// @notice Tolerates this much difference between the runner's clock and the chain's, either way.
    uint256 public constant CLOCK_SKEW = 5 minutes;
    address private constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935; // EIP-2935

    address public immutable escrow;
    /// @notice The only sender whose verdicts count; see `VerifierSet`.
    address public immutable verifiers;
    bool public immutable development;

    mapping(address signer => Runner) public runners;

    event RunnerRegistered(
        address indexed runner,
        address indexed provider,
        bytes32 indexed workload,
        uint40 validUntil,
        uint8 tee,
        uint8 status,
        bytes32 evidence
    );

    error DevelopmentRootOnRealChain(uint256 chainId);
    error StatusNotAllowed(uint8 status);
    error ReportDataMismatch();
    error StatementMismatch();
    error StatementExpired(uint64 notAfter);
    error NonceNotRecent();
    error WorkloadNotApproved(bytes32 workload);
    error NotSignedByRunner();
    error ProviderMismatch(address provider);
    error NotTheVerifiers(address sender);
    error PolicyEpochPassed(uint16 policyEpoch);
    error VerdictExpired(uint32 validUntil);

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
    }

    /// @notice Registers a runner key, or renews its registration, on a quote that is verified here.
    /// @dev Anyone may send it: the runner's key names the provider, so a copy of the call changes nothing.
    function register(Quote calldata quote, Claim calldata claim) external {
        Rules memory inForce = rules;
        Appraisal memory appraisal = appraise(quote, inForce);
        require((inForce.statuses >> appraisal.status) & 1 == 1, StatusNotAllowed(appraisal.status));

        bytes calldata body = bodyOf(quote.signed);
        // Everything measured that an operator could vary: MRTD, RTMR0..3, MRCONFIGID, XFAM, TDATTRIBUTES.
        bytes32 workload =
            sha256(abi.encodePacked("ASY1wrkl", body[136:184], body[328:520], body[184:232], body[128:136], body[120:128]));
        (address signer, uint256 notAfter, bytes32 digest) = checkStatement(claim, body, workload, inForce.killedBlock);
        checkPossession(signer, claim, digest);
        uint256 until = notAfter < appraisal.validUntil ? notAfter : appraisal.validUntil;
        enter(signer, Runner(claim.provider, 0, uint32(until), 0, 0, appraisal.status), workload, digest, inForce);
    }

    /// @notice Registers a runner on the verdict of the verifiers, for evidence no chain can afford to verify.
    /// @param runner provider, expiry, kind and status; its times and position are set here
    /// @param epoch the policy epoch the verdict was given in: an older one ended with the kill switch
    /// @param evidence digest under which the verifiers publish the evidence
    function registerVerdict(address signer, Runner calldata runner, bytes32 workload, uint16 epoch, bytes32 evidence) external {
        require(msg.sender == verifiers, NotTheVerifiers(msg.sender));
        Rules memory inForce = rules;
        require(epoch == inForce.policyEpoch, PolicyEpochPassed(inForce.policyEpoch));
        require(runner.validUntil >= block.timestamp, VerdictExpired(runner.validUntil));
        require((inForce.statuses >> runner.status) & 1 == 1, StatusNotAllowed(runner.status));
        enter(signer, runner, workload, evidence, inForce);
    }

    /// @notice Tells who is paid for a runner's work finished at a time, and whether the runner was attested then and is not revoked now.
    function providerAt(address signer, uint64 finishedAt) external view returns (address provider, bool active) {
        Runner memory runner = runners[signer];
        provider = runner.provider;
        active = provider != address(0) && finishedAt + CLOCK_SKEW >= runner.registeredAt && finishedAt <= runner.validUntil
            && stands(runner, rules);
    }

    /// @notice Tells whether a runner is attested now.
    function isActiveNow(address signer) external view returns (bool) {
        Runner memory runner = runners[signer];
        return runner.validUntil >= block.timestamp && stands(runner, rules);
    }

    /// @dev The owner has ended neither all registrations since nor this workload's.
    function stands(Runner memory runner, Rules memory inForce) private view returns (bool) {
        return runner.registeredAt > inForce.killedAt && isApproved(runner.workloadIndex, inForce.approvals);
    }

    /// @dev Writes the one slot. A renewal by the same provider for the same workload keeps its beginning, so that work finished before it
    ///      stays payable.
    function enter(address signer, Runner memory runner, bytes32 workload, bytes32 evidence, Rules memory inForce) private {
        runner.workloadIndex = indexOf[workload];
        require(isApproved(runner.workloadIndex, inForce.approvals), WorkloadNotApproved(workload));
        Runner memory before = runners[signer];
        require(before.provider == address(0) || before.provider == runner.provider, ProviderMismatch(before.provider));
        bool renews = before.validUntil >= block.timestamp && before.workloadIndex == runner.workloadIndex && stands(before, inForce);
        runner.registeredAt = renews ? before.registeredAt : uint32(block.timestamp);
        uint256 longest = block.timestamp + MAX_TTL;
        if (runner.validUntil > longest) runner.validUntil = uint32(longest);
        runners[signer] = runner;
        emit RunnerRegistered(signer, runner.provider, workload, runner.validUntil, runner.tee, runner.status, evidence);
    }

    function checkPossession(address signer, Claim calldata claim, bytes32 digest) private view {
        bytes32 typed = Protocol.registrationDigest(Protocol.domainSeparator(escrow), signer, claim.provider, digest);
        require(Protocol.recover(typed, claim.signature) == signer, NotSignedByRunner());
    }

    function checkStatement(Claim calldata claim, bytes calldata body, bytes32 workload, uint256 killedBlock)
        private
        view
        returns (address signer, uint64 notAfter, bytes32 digest)
    {
        bytes calldata statement = claim.statement;
        require(statement.length == 205, StatementMismatch());
        signer = address(uint160(uint256(keccak256(abi.encodePacked(statement[37:69], claim.signerY)))));
        notAfter = uint64(bytes8(statement[197:205]));
        digest = sha256(statement);
        checkReportData(body[520:584], signer, notAfter, digest);
        bytes1 parity = uint256(claim.signerY) & 1 == 1 ? bytes1(0x03) : bytes1(0x02);
        require(
            bytes8(statement[0:8]) == (development ? bytes8("ASYDstmt") : bytes8("ASY1stmt"))
                && uint64(bytes8(statement[8:16])) == block.chainid && address(bytes20(statement[16:36])) == address(this)
                && statement[36] == parity && bytes32(statement[165:197]) == workload,
            StatementMismatch()
        );
        require(notAfter >= block.timestamp, StatementExpired(notAfter));
        require(
            claim.nonceBlock > killedBlock && bytes32(statement[101:133]) == recentHash(claim.nonceBlock), NonceNotRecent()
        );
    }

    /// @dev What ties a quote to a statement; virtual only so that a test can measure real quotes, which vouch for other statements.
    function checkReportData(bytes calldata reportData, address signer, uint64 notAfter, bytes32 digest) internal view virtual {
        require(
            bytes20(reportData[0:20]) == bytes20(signer)
                && bytes4(reportData[20:24]) == (development ? bytes4("ASYD") : bytes4("ASY1"))
                && uint64(bytes8(reportData[24:32])) == notAfter && bytes32(reportData[32:64]) == digest,
            ReportDataMismatch()
        );
    }

    /// @dev The last 256 hashes come from the EVM, older ones (to 8,191) from the history contract where the chain has it.
    function recentHash(uint64 number) private view returns (bytes32 hash) {
        hash = blockhash(number);
        if (hash == 0 && number < block.number && HISTORY.code.length > 0) {
            (bool ok, bytes memory answer) = HISTORY.staticcall(abi.encode(uint256(number)));
            if (ok && answer.length == 32) hash = abi.decode(answer, (bytes32));
        }
        require(hash != 0, NonceNotRecent());
    }
}
