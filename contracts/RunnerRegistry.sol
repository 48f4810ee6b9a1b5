// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MeasurementPolicy} from "./MeasurementPolicy.sol";
import {Protocol} from "./Protocol.sol";

/// @notice Keeps the attested runners. A TDX quote's signatures are verified here, so nobody has to be believed about them.
/// @dev Warning: TCB levels and revocation lists are judged off chain, by the edge and by the buyer; the chain checks signatures,
///      bindings, debug mode, the quoting enclave's identity and the workload, and forgets a registration after `MAX_TTL`.
contract RunnerRegistry {
    /// @notice Fills one storage slot per runner.
    struct Runner {
        address provider;
        uint40 registeredAt;
        uint40 validUntil;
        uint16 workloadIndex;
    }

    /// @notice Holds a platform's attestation key once its certificate has been verified.
    struct Pck {
        bytes32 x;
        bytes32 y;
        uint64 notAfter;
        bytes6 fmspc;
    }

    /// @notice Carries a quote cut into its parts, the statement it vouches for, and the provider the runner's key names.
    struct Attestation {
        bytes signed; // header, descriptor and body of the quote: 632 bytes (v4) or 702 (v5)
        bytes32 quoteR;
        bytes32 quoteS;
        bytes32 attestationX;
        bytes32 attestationY;
        bytes qeReport; // 384 bytes
        bytes32 qeR;
        bytes32 qeS;
        bytes qeAuthData;
        bytes32 pckId;
        bytes statement; // 205 bytes
        uint64 nonceBlock; // the block whose hash is the statement's nonce
        bytes32 signerX;
        bytes32 signerY;
        address provider;
        bytes signature; // of the runner's key over Registration
    }

    uint256 public constant MAX_TTL = 1 days;
    /// @notice Tolerates this much difference between the runner's clock and the chain's, either way.
    uint256 public constant CLOCK_SKEW = 5 minutes;
    address private constant P256 = address(0x100);
    address private constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935; // EIP-2935

    MeasurementPolicy public immutable policy;
    address public immutable escrow;
    bool public immutable development;
    bytes32 private immutable caX;
    bytes32 private immutable caY;
    bytes32 private immutable qeSigner;

    mapping(address signer => Runner) public runners;
    mapping(bytes32 pckId => Pck) public pcks;

    event PckRegistered(bytes32 indexed pckId, bytes6 fmspc, uint64 notAfter);
    event RunnerRegistered(
        address indexed runner, address indexed provider, bytes32 indexed workload, uint40 validUntil, bytes32 statement
    );

    error DevelopmentRootOnRealChain(uint256 chainId);
    error MalformedCertificate();
    error CertificateNotSigned();
    error CertificateExpired(uint64 notAfter);
    error UnknownPlatform(bytes32 pckId);
    error PlatformDenied(bytes32 pckId);
    error MalformedQuote();
    error QeReportNotSigned();
    error QeIdentityMismatch();
    error AttestationKeyUnbound();
    error QuoteNotSigned();
    error DebugEnabled();
    error AttributesNotAllowed(bytes8 attributes);
    error ReportDataMismatch();
    error StatementMismatch();
    error StatementExpired(uint64 notAfter);
    error NonceNotRecent();
    error WorkloadNotApproved(bytes32 workload);
    error NotSignedByRunner();
    error ProviderMismatch(address provider);

    /// @param development_ true for a development root, which only stands on a local chain
    /// @param caX_ caY_ P-256 key of the CA that issues PCK certificates
    /// @param qeSigner_ MRSIGNER of the quoting enclave
    constructor(MeasurementPolicy policy_, address escrow_, bool development_, bytes32 caX_, bytes32 caY_, bytes32 qeSigner_) {
        require(!development_ || block.chainid == 31337 || block.chainid == 1337, DevelopmentRootOnRealChain(block.chainid));
        policy = policy_;
        escrow = escrow_;
        development = development_;
        caX = caX_;
        caY = caY_;
        qeSigner = qeSigner_;
    }

    /// @notice Verifies a PCK certificate's signature and remembers its key; anyone may, once per platform.
    /// @param tbs the signed part of the certificate, as DER
    function registerPck(bytes calldata tbs, bytes32 r, bytes32 s) external returns (bytes32 pckId) {
        require(verifyP256(sha256(tbs), r, s, caX, caY), CertificateNotSigned());
        Pck memory pck = parsePck(tbs);
        require(pck.notAfter >= block.timestamp, CertificateExpired(pck.notAfter));
        pckId = sha256(tbs);
        pcks[pckId] = pck;
        emit PckRegistered(pckId, pck.fmspc, pck.notAfter);
    }

    /// @notice Registers a runner key, or renews its registration, on a quote whose signatures are verified here.
    /// @dev Anyone may send it: the runner's key names the provider, so a copy of the call changes nothing.
    function register(Attestation calldata a) external {
        Pck memory pck = pcks[a.pckId];
        require(pck.notAfter != 0, UnknownPlatform(a.pckId));
        require(pck.notAfter >= block.timestamp, CertificateExpired(pck.notAfter));
        require(!policy.denied(a.pckId), PlatformDenied(a.pckId));
        checkQuote(a, pck);
        (address signer, uint64 notAfter, bytes32 workload) = checkStatement(a);
        uint16 index = policy.indexOf(workload);
        require(policy.approved(index), WorkloadNotApproved(workload));

        bytes32 digest =
            Protocol.registrationDigest(Protocol.domainSeparator(escrow), signer, a.provider, sha256(a.statement));
        require(Protocol.recover(digest, a.signature) == signer, NotSignedByRunner());

        Runner storage runner = runners[signer];
        require(runner.provider == address(0) || runner.provider == a.provider, ProviderMismatch(runner.provider));
        // A renewal keeps its beginning, so that work finished before it stays payable.
        uint40 since = isActive(runner) ? runner.registeredAt : uint40(block.timestamp);
        uint256 until = block.timestamp + MAX_TTL;
        if (notAfter < until) until = notAfter;
        if (pck.notAfter < until) until = pck.notAfter;
        runners[signer] = Runner(a.provider, since, uint40(until), index);
        emit RunnerRegistered(signer, a.provider, workload, uint40(until), sha256(a.statement));
    }

    /// @notice Tells who is paid for a runner's work finished at a time, and whether the runner was attested then and is not revoked now.
    function providerAt(address signer, uint64 finishedAt) external view returns (address provider, bool active) {
        Runner storage runner = runners[signer];
        provider = runner.provider;
        active = provider != address(0) && policy.approved(runner.workloadIndex) && runner.registeredAt > policy.killedAt()
            && finishedAt + CLOCK_SKEW >= runner.registeredAt && finishedAt <= runner.validUntil;
    }

    /// @notice Tells whether a runner is attested now.
    function isActiveNow(address signer) external view returns (bool) {
        return isActive(runners[signer]);
    }

    function isActive(Runner storage runner) private view returns (bool) {
        return runner.validUntil >= block.timestamp && policy.approved(runner.workloadIndex)
            && runner.registeredAt > policy.killedAt();
    }

    /// @dev PCK key -> quoting enclave's report -> attestation key -> quote.
    function checkQuote(Attestation calldata a, Pck memory pck) private view {
        require(a.qeReport.length == 384, MalformedQuote());
        require(verifyP256(sha256(a.qeReport), a.qeR, a.qeS, pck.x, pck.y), QeReportNotSigned());
        require(
            bytes32(a.qeReport[128:160]) == qeSigner && bytes2(a.qeReport[256:258]) == 0x0200 && a.qeReport[48] & 0x02 == 0,
            QeIdentityMismatch()
        );
        require(
            bytes32(a.qeReport[320:352]) == sha256(abi.encodePacked(a.attestationX, a.attestationY, a.qeAuthData))
                && bytes32(a.qeReport[352:384]) == 0,
            AttestationKeyUnbound()
        );
        require(
            verifyP256(sha256(a.signed), a.quoteR, a.quoteS, a.attestationX, a.attestationY), QuoteNotSigned()
        );
    }

    /// @dev Where the TD report starts: after the header, and in version 5 after the descriptor.
    function bodyOf(bytes calldata signed) private pure returns (bytes calldata) {
        require(signed.length == 632 || signed.length == 702, MalformedQuote());
        bytes8 header = bytes8(signed[0:8]);
        if (signed.length == 632) {
            require(header == 0x0400020081000000, MalformedQuote());
            return signed[48:];
        }
        require(header == 0x0500020081000000 && bytes6(signed[48:54]) == 0x030088020000, MalformedQuote());
        return signed[54:];
    }

    function checkStatement(Attestation calldata a) private view returns (address signer, uint64 notAfter, bytes32 workload) {
        bytes calldata body = bodyOf(a.signed);
        bytes calldata statement = a.statement;
        require(statement.length == 205, StatementMismatch());

        bytes8 attributes = bytes8(body[120:128]);
        require(attributes & 0x0100000000000000 == 0, DebugEnabled());
        // SEPT_VE_DISABLE must be set; beside it only LASS (bit 27) may be.
        require(attributes & 0xFFFFFFF7FFFFFFFF == 0x0000001000000000, AttributesNotAllowed(attributes));
        if (body.length == 648) {
            require(bytes32(body[600:632]) == 0 && bytes16(body[632:648]) == 0, AttributesNotAllowed(attributes));
        }

        signer = address(uint160(uint256(keccak256(abi.encodePacked(a.signerX, a.signerY)))));
        notAfter = uint64(bytes8(statement[197:205]));
        require(
            keccak256(body[520:584])
                == keccak256(abi.encodePacked(signer, development ? bytes4("ASYD") : bytes4("ASY1"), notAfter, sha256(statement))),
            ReportDataMismatch()
        );
        bytes1 parity = uint256(a.signerY) & 1 == 1 ? bytes1(0x03) : bytes1(0x02);
        require(
            bytes8(statement[0:8]) == (development ? bytes8("ASYDstmt") : bytes8("ASY1stmt"))
                && uint64(bytes8(statement[8:16])) == block.chainid && address(bytes20(statement[16:36])) == address(this)
                && statement[36] == parity && bytes32(statement[37:69]) == a.signerX,
            StatementMismatch()
        );
        require(notAfter >= block.timestamp, StatementExpired(notAfter));
        require(bytes32(statement[101:133]) == recentHash(a.nonceBlock), NonceNotRecent());

        // Everything measured that an operator could vary: MRTD, RTMR0..3, MRCONFIGID, XFAM, TDATTRIBUTES.
        workload = sha256(
            abi.encodePacked("ASY1wrkl", body[136:184], body[328:520], body[184:232], body[128:136], body[120:128])
        );
        require(bytes32(statement[165:197]) == workload, StatementMismatch());
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

    /// @dev EIP-7951; an absent precompile answers nothing, which counts as invalid. Intel does not normalise s, so high values pass.
    function verifyP256(bytes32 hash, bytes32 r, bytes32 s, bytes32 x, bytes32 y) private view returns (bool) {
        (bool ok, bytes memory answer) = P256.staticcall(abi.encode(hash, r, s, x, y));
        return ok && answer.length == 32 && abi.decode(answer, (uint256)) == 1;
    }

    /// @dev Walks the certificate's DER inside its own bounds (RFC 5280 section 4.1) and takes expiry, key and FMSPC.
    function parsePck(bytes calldata tbs) private pure returns (Pck memory pck) {
        bytes calldata rest;
        (bytes calldata fields, bytes calldata none) = take(tbs, 0x30);
        require(none.length == 0, MalformedCertificate());
        (, rest) = take(fields, 0xa0);
        (, rest) = take(rest, 0x02);
        (, rest) = take(rest, 0x30);
        (, rest) = take(rest, 0x30);
        bytes calldata part;
        (part, rest) = take(rest, 0x30);
        pck.notAfter = parseNotAfter(part);
        (, rest) = take(rest, 0x30);
        (part, rest) = take(rest, 0x30);
        require(
            part.length == 89 && bytes25(part[0:25]) == hex"301306072a8648ce3d020106082a8648ce3d03010703420004",
            MalformedCertificate()
        );
        pck.x = bytes32(part[25:57]);
        pck.y = bytes32(part[57:89]);
        (part, rest) = take(rest, 0xa3);
        require(rest.length == 0, MalformedCertificate());
        pck.fmspc = parseFmspc(part);
    }

    function parseNotAfter(bytes calldata validity) private pure returns (uint64) {
        require(validity.length > 2, MalformedCertificate());
        (, bytes calldata rest) = take(validity, uint8(validity[0]));
        require(rest.length > 2, MalformedCertificate());
        uint8 tag = uint8(rest[0]);
        bytes calldata text;
        (text, rest) = take(rest, tag);
        require(rest.length == 0, MalformedCertificate());
        uint256 year;
        if (tag == 0x17 && text.length == 13) {
            year = digits(text, 0);
            year += year < 50 ? 2000 : 1900;
            text = text[2:];
        } else {
            require(tag == 0x18 && text.length == 15, MalformedCertificate());
            year = digits(text, 0) * 100 + digits(text, 2);
            text = text[4:];
        }
        uint256 month = digits(text, 0);
        uint256 day = digits(text, 2);
        require(month >= 1 && month <= 12 && day >= 1 && day <= 31, MalformedCertificate());
        // Days since 1970-01-01 of a proleptic Gregorian date, with the year counted from March.
        uint256 y = month > 2 ? year : year - 1;
        uint256 m = month > 2 ? month - 3 : month + 9;
        uint256 dayNumber = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719468;
        return uint64(dayNumber * 86400 + digits(text, 4) * 3600 + digits(text, 6) * 60 + digits(text, 8));
    }

    function digits(bytes calldata text, uint256 at) private pure returns (uint256) {
        uint256 tens = uint8(text[at]) - 48;
        uint256 ones = uint8(text[at + 1]) - 48;
        require(tens < 10 && ones < 10, MalformedCertificate());
        return tens * 10 + ones;
    }

    /// @dev Extension 1.2.840.113741.1.13.1, entry .4.
    function parseFmspc(bytes calldata extensions) private pure returns (bytes6) {
        (bytes calldata list,) = take(extensions, 0x30);
        while (list.length > 0) {
            bytes calldata entry;
            (entry, list) = take(list, 0x30);
            (bytes calldata id, bytes calldata value) = take(entry, 0x06);
            if (keccak256(id) != keccak256(hex"2a864886f84d010d01")) continue;
            (value,) = take(value, 0x04);
            (value,) = take(value, 0x30);
            while (value.length > 0) {
                (entry, value) = take(value, 0x30);
                bytes calldata content;
                (id, content) = take(entry, 0x06);
                if (keccak256(id) != keccak256(hex"2a864886f84d010d0104")) continue;
                (content,) = take(content, 0x04);
                require(content.length == 6, MalformedCertificate());
                return bytes6(content);
            }
        }
        revert MalformedCertificate();
    }

    /// @dev Takes one DER element with this tag; lengths up to 65,535 in their shortest form.
    function take(bytes calldata der, uint8 tag) private pure returns (bytes calldata content, bytes calldata rest) {
        require(der.length >= 2 && uint8(der[0]) == tag, MalformedCertificate());
        uint256 start = 2;
        uint256 length = uint8(der[1]);
        if (length >= 0x80) {
            if (length == 0x81) {
                require(der.length >= 3, MalformedCertificate());
                length = uint8(der[2]);
                require(length >= 0x80, MalformedCertificate());
                start = 3;
            } else {
                require(length == 0x82 && der.length >= 4, MalformedCertificate());
                length = uint16(bytes2(der[2:4]));
                require(length >= 0x100, MalformedCertificate());
                start = 4;
            }
        }
        require(start + length <= der.length, MalformedCertificate());
        return (der[start:start + length], der[start + length:]);
    }
}
