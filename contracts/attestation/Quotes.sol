// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Bytes} from "./Bytes.sol";
import {Collateral} from "./Collateral.sol";
import {P256} from "./P256.sol";
import {Platform} from "./PckExtension.sol";
import {Tcb} from "./Tcb.sol";

/// @notice Judges TDX quotes by Intel's algorithm, from what was proven before: the platform's key, its revocation list, TCB info and the
///         quoting enclave's identity.
abstract contract Quotes is Collateral {
    /// @notice Carries a quote cut into its parts, without the certificates that were registered before.
    struct Quote {
        bytes signed; // header, descriptor and body: 632 bytes (version 4), 638 or 702 (version 5)
        bytes32 r;
        bytes32 s;
        bytes32 attestationX;
        bytes32 attestationY;
        bytes qeReport; // 384 bytes
        bytes32 qeR;
        bytes32 qeS;
        bytes qeAuthData;
        PlatformKey platform;
    }

    /// @notice Judges a quote: statuses numbered as in `Tcb`, and the earliest expiry of what it rests on (unix seconds).
    struct Appraisal {
        uint8 status;
        uint8 moduleStatus;
        uint8 qeStatus;
        uint40 validUntil;
    }

    uint256 private constant HEADER = 0xffffffffffffffff00000000ffffffffffffffffffffffffffffffff00000000;
    uint256 private constant TDX_QUOTE = 0x000002008100000000000000939a7233f79c4ca9940a0db3957f060700000000;

    error UnknownPlatform(bytes32 platform);
    error PlatformIsDenied(bytes32 platform);
    error PlatformIsRevoked(bytes32 platform);
    error MalformedQuote();
    error UnsupportedQuote();
    error QeReportNotSigned();
    error AttestationKeyUnbound();
    error QuoteNotSigned();
    error ModuleMismatch();
    error DebugEnabled();
    error AttributesNotAllowed(bytes8 attributes);

    /// @notice Appraises a quote against what is posted now. Reverts with the reason where a check fails; says nothing of the status's merit.
    function appraise(Quote calldata quote) external view returns (Appraisal memory) {
        return appraise(quote, bodyOf(quote.signed), tcbRules);
    }

    function appraise(Quote calldata quote, bytes calldata body, TcbRules memory inForce)
        internal
        view
        returns (Appraisal memory appraisal)
    {
        bytes32 id = platformId(quote.platform);
        Platform memory platform = platforms[id];
        require(platform.notAfter != 0, UnknownPlatform(id));
        require(platform.barred & REVOKED == 0, PlatformIsRevoked(id));
        require(platform.barred & DENIED == 0, PlatformIsDenied(id));
        require(platform.notAfter >= block.timestamp, CertificateExpired(platform.notAfter));
        uint256 until = checkIssuer(quote.platform.issuer, inForce);
        if (platform.notAfter < until) until = platform.notAfter;

        checkSignatures(quote);
        checkAttributes(body);

        bytes memory table;
        uint256 lapse;
        (table, lapse) = qeTable(inForce);
        if (lapse < until) until = lapse;
        appraisal.qeStatus = uint8(Tcb.qeStatus(table, QE_DATES, quote.qeReport));
        (table, lapse) = tcbTable(bytes8(platform.fmspc) | bytes8(platform.pceId) >> 48, inForce);
        if (lapse < until) until = lapse;
        appraisal.validUntil = uint40(until);
        judge(appraisal, table, platform, body);
    }

    /// @dev Platform, module and quoting enclave converge; a 1.5 body also tells the TCB as it is now, and the worse counts.
    function judge(Appraisal memory appraisal, bytes memory table, Platform memory platform, bytes calldata body) private pure {
        bytes16 svn = bytes16(bytes32(Bytes.word(body, 0)));
        uint256 module = Tcb.moduleStatus(table, svn);
        uint256 status = Tcb.platformStatus(table, platform.components, platform.pceSvn, svn);
        bytes16 svn2 = bytes16(bytes32(Bytes.word(body, 584)));
        if (body.length == 648 && svn2 != svn) {
            // Where only the module's minor version has moved, the same level is found.
            uint256 now_ = Tcb.sameLevel(svn, svn2)
                ? status
                : Tcb.platformStatus(table, platform.components, platform.pceSvn, svn2);
            now_ = Tcb.converge(now_, Tcb.moduleStatus(table, svn2));
            if (now_ > status) status = now_;
        }
        appraisal.moduleStatus = uint8(module);
        appraisal.status = uint8(Tcb.converge(Tcb.converge(status, module), appraisal.qeStatus));
    }

    /// @dev The platform's CA stands, and its revocation list is recent.
    function checkIssuer(bytes32 id, TcbRules memory inForce) private view returns (uint256 until) {
        Issuer memory issuer = usable(id);
        until = issuer.notAfter;
        uint256 nextUpdate = issuer.crlNextUpdate;
        if (nextUpdate == 0) {
            require(!inForce.crlRequired, CrlMissing(id));
        } else {
            require(nextUpdate >= block.timestamp, CrlNotCurrent(issuer.crlThisUpdate, nextUpdate));
            if (nextUpdate < until) until = nextUpdate;
        }
    }

    /// @dev PCK key -> quoting enclave's report -> attestation key -> quote.
    function checkSignatures(Quote calldata quote) private view {
        bytes calldata report = quote.qeReport;
        require(report.length == 384, MalformedQuote());
        require(
            P256.verify(sha256(report), quote.qeR, quote.qeS, quote.platform.x, quote.platform.y), QeReportNotSigned()
        );
        require(
            bytes32(Bytes.word(report, 320))
                == sha256(abi.encodePacked(quote.attestationX, quote.attestationY, quote.qeAuthData))
                && Bytes.word(report, 352) == 0,
            AttestationKeyUnbound()
        );
        require(
            P256.verify(sha256(quote.signed), quote.r, quote.s, quote.attestationX, quote.attestationY), QuoteNotSigned()
        );
    }

    /// @dev Where the TD report starts: after the header, and in version 5 after the descriptor.
    function bodyOf(bytes calldata signed) internal pure returns (bytes calldata) {
        uint256 length = signed.length;
        require(length == 632 || length == 638 || length == 702, MalformedQuote());
        // Version, key type and TEE type, and the quoting enclave's vendor: all of the first 28 bytes but its versions.
        uint256 header = Bytes.word(signed, 0) & HEADER;
        if (length == 632) {
            require(header == TDX_QUOTE | 4 << 248, UnsupportedQuote());
            return Bytes.from(signed, 48);
        }
        uint256 descriptor = length == 638 ? 0x020048020000 : 0x030088020000;
        require(header == TDX_QUOTE | 5 << 248 && Bytes.word(signed, 48) >> 208 == descriptor, UnsupportedQuote());
        return Bytes.from(signed, 54);
    }

    function checkAttributes(bytes calldata body) private pure {
        // MRSIGNERSEAM and SEAMATTRIBUTES: the tables hold modules of the vendor's own, unmodified, only.
        uint256 second = Bytes.word(body, 96);
        require(Bytes.word(body, 64) == 0 && second >> 64 == 0, ModuleMismatch());
        bytes8 attributes = bytes8(uint64(second));
        require(attributes & 0x0100000000000000 == 0, DebugEnabled());
        // SEPT_VE_DISABLE must be set; beside it only LASS (bit 27) may be.
        require(attributes & 0xFFFFFFF7FFFFFFFF == 0x0000001000000000, AttributesNotAllowed(attributes));
        if (body.length == 648) {
            require(Bytes.word(body, 600) | Bytes.word(body, 616) == 0, AttributesNotAllowed(attributes));
        }
    }
}
