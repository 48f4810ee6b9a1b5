// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Protocol} from "../Protocol.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";

/// @notice Registers runners whose evidence no chain can afford to verify (SEV-SNP, Nitro, GPUs) on the word of m of n verifiers.
/// @dev Warning: m colluding verifiers can register any key. They publish the evidence under its digest, and whoever replays its verification
///      finds a false verdict; the owner then takes a verifier out at once, while anybody new waits `ROTATION_DELAY`.
contract VerifierSet is Ownable {
    /// @notice Says what verifiers found; signed by each of them (EIP-712, domain of the registry).
    struct Verdict {
        bytes32 evidenceDigest; // SHA-256 of the published evidence
        address signer;
        address provider;
        bytes32 workload;
        uint8 tee; // as in RunnerRegistry.Runner: 1 TDX, 2 SEV-SNP, 3 Nitro; plus 128 with an attested GPU
        uint8 tcbTier; // numbered as TCB statuses, best first
        uint64 validUntil; // unix seconds
        uint16 policyEpoch; // of the registry when the verdict was given
    }

    bytes32 private constant VERDICT_TYPE = keccak256(
        "AttestedVerdict(bytes32 evidenceDigest,address signer,address provider,bytes32 workload,uint8 tee,uint8 tcbTier,uint64 validUntil,uint16 policyEpoch)"
    );
    /// @notice Leaves this much time to see a new set of verifiers before it counts.
    uint256 public constant ROTATION_DELAY = 2 days;

    RunnerRegistry public immutable registry;
    /// @notice How many verifiers must agree.
    uint256 public threshold;
    /// @notice How many verifiers there are.
    uint256 public count;
    mapping(address verifier => uint256 generation) private memberOf;
    uint256 private generation;
    /// @notice Digest of the set proposed next; zero when there is none.
    bytes32 public proposed;
    /// @notice When the proposed set may take over (unix seconds).
    uint256 public proposedFor;

    event RotationProposed(address[] verifiers, uint256 threshold, uint256 effectiveAt);
    event RotationCancelled();
    event VerifiersSet(address[] verifiers, uint256 threshold);
    event VerifierRemoved(address verifier);

    error BadThreshold(uint256 threshold, uint256 verifiers);
    error VerifiersNotAscending(address verifier);
    error NotProposed();
    error RotationTooEarly(uint256 effectiveAt);
    error NotAVerifier(address signer);
    error SignersNotAscending(address signer);
    error TooFewSignatures(uint256 signatures, uint256 threshold);
    error UnknownTee(uint8 tee);

    /// @param verifiers_ ascending addresses, each once
    constructor(address owner, RunnerRegistry registry_, address[] memory verifiers_, uint256 threshold_) Ownable(owner) {
        registry = registry_;
        install(verifiers_, threshold_);
    }

    /// @notice Registers a runner on a verdict; anyone may send it. Signatures in ascending order of their signers.
    function register(Verdict calldata verdict, bytes[] calldata signatures) external {
        uint8 kind = verdict.tee & 0x7f;
        require(kind >= 1 && kind <= 3, UnknownTee(verdict.tee));
        checkSignatures(digestOf(verdict), signatures);
        registry.registerVerdict(
            verdict.signer,
            RunnerRegistry.Runner({
                provider: verdict.provider,
                registeredAt: 0,
                validUntil: verdict.validUntil > type(uint32).max ? type(uint32).max : uint32(verdict.validUntil),
                workloadIndex: 0,
                tee: verdict.tee,
                status: verdict.tcbTier
            }),
            verdict.workload,
            verdict.policyEpoch,
            verdict.evidenceDigest
        );
    }

    /// @notice Computes what verifiers sign.
    function digestOf(Verdict calldata verdict) public view returns (bytes32) {
        return Protocol.typed(Protocol.domainSeparator(address(registry)), keccak256(abi.encode(VERDICT_TYPE, verdict)));
    }

    /// @notice Tells whether an address is a verifier now.
    function isVerifier(address verifier) public view returns (bool) {
        return memberOf[verifier] == generation;
    }

    /// @notice Proposes another set of verifiers, which may take over after `ROTATION_DELAY`.
    function propose(address[] calldata verifiers_, uint256 threshold_) external onlyOwner {
        checkSet(verifiers_, threshold_);
        proposed = keccak256(abi.encode(verifiers_, threshold_));
        proposedFor = block.timestamp + ROTATION_DELAY;
        emit RotationProposed(verifiers_, threshold_, proposedFor);
    }

    /// @notice Withdraws the proposed set.
    function cancel() external onlyOwner {
        require(proposed != 0, NotProposed());
        proposed = 0;
        emit RotationCancelled();
    }

    /// @notice Lets the proposed set take over; anyone may, once it is time.
    function rotate(address[] calldata verifiers_, uint256 threshold_) external {
        // No set has the digest zero, so none is proposed while it is zero.
        require(proposed == keccak256(abi.encode(verifiers_, threshold_)), NotProposed());
        require(block.timestamp >= proposedFor, RotationTooEarly(proposedFor));
        proposed = 0;
        install(verifiers_, threshold_);
    }

    /// @notice Takes a verifier out at once. The threshold stays: fewer verifiers never means fewer signatures.
    function remove(address verifier) external onlyOwner {
        require(isVerifier(verifier), NotAVerifier(verifier));
        memberOf[verifier] = 0;
        count--;
        emit VerifierRemoved(verifier);
    }

    function install(address[] memory verifiers_, uint256 threshold_) private {
        checkSet(verifiers_, threshold_);
        generation++;
        for (uint256 i = 0; i < verifiers_.length; i++) memberOf[verifiers_[i]] = generation;
        count = verifiers_.length;
        threshold = threshold_;
        emit VerifiersSet(verifiers_, threshold_);
    }

    function checkSet(address[] memory verifiers_, uint256 threshold_) private pure {
        require(threshold_ > 0 && threshold_ <= verifiers_.length, BadThreshold(threshold_, verifiers_.length));
        address before = address(0);
        for (uint256 i = 0; i < verifiers_.length; i++) {
            require(verifiers_[i] > before, VerifiersNotAscending(verifiers_[i]));
            before = verifiers_[i];
        }
    }

    /// @dev Ascending signers are distinct signers; zero, which no signature stands for, is never a verifier (see `checkSet`).
    function checkSignatures(bytes32 digest, bytes[] calldata signatures) private view {
        require(signatures.length >= threshold, TooFewSignatures(signatures.length, threshold));
        address before = address(0);
        for (uint256 i = 0; i < signatures.length; i++) {
            address signer = Protocol.recover(digest, signatures[i]);
            require(isVerifier(signer), NotAVerifier(signer));
            require(signer > before, SignersNotAscending(signer));
            before = signer;
        }
    }
}
