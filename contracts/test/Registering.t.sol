// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Asn1} from "./Evidence.sol";
import {Vendor} from "./Vendor.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {Role} from "../attestation/Certificates.sol";
import {Collateral} from "../attestation/Collateral.sol";
import {Issuers} from "../attestation/Issuers.sol";
import {Platforms} from "../attestation/Platforms.sol";
import {Quotes} from "../attestation/Quotes.sol";

/// @notice Checks a registration from the vendor's root to the one slot that settlement reads; `test/contracts/` does so with quotes of real machines.
contract RegisteringTest is Vendor {
    function setUp() public {
        open();
        postAll();
    }

    function test_register_soundEvidence() public {
        send(registerCall(sound()));
        RunnerRegistry.Runner memory it = runner();
        assertEq(it.provider, PROVIDER);
        assertEq(it.registeredAt, NOW);
        assertEq(it.validUntil, NOT_AFTER);
        assertEq(it.workloadIndex, 1);
        assertEq(it.tee, 0);
        assertEq(it.status, 0);
    }

    function test_register_bothLaterForms() public {
        bytes memory head = bytes.concat(HEADER_5, hex"020048020000");
        send(registerCall(made(head, body())));
        assertEq(runner().validUntil, NOT_AFTER);
        head = bytes.concat(HEADER_5, hex"030088020000");
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        claim.notAfter = NOT_AFTER + 1;
        send(registerCall(made(head, laterBody(), claim, RUNNER)));
        assertEq(runner().validUntil, NOT_AFTER + 1);
    }

    /// @dev A field that is only looked at by the vendor's enclave is nobody's business here.
    function test_register_versionsOfTheEnclaveMayDiffer() public {
        bytes memory head = bytes.concat(HEADER);
        for (uint256 i = 8; i < 12; i++) head[i] = 0xff;
        for (uint256 i = 28; i < 48; i++) head[i] = 0xff;
        send(registerCall(made(head, body())));
    }

    function test_quote_refusesAnyOtherHeader() public {
        for (uint256 i = 0; i < 28; i++) {
            if (i >= 8 && i < 12) continue;
            bytes memory head = bytes.concat(HEADER);
            head[i] ^= 0x01;
            refused(registerCall(made(head, body())), Quotes.UnsupportedQuote.selector);
            head = bytes.concat(HEADER_5, hex"030088020000");
            head[i] ^= 0x01;
            refused(registerCall(made(head, laterBody())), Quotes.UnsupportedQuote.selector);
        }
    }

    function test_quote_refusesAnyOtherDescriptor() public {
        for (uint256 i = 48; i < 54; i++) {
            bytes memory head = bytes.concat(HEADER_5, hex"030088020000");
            head[i] ^= 0x01;
            refused(registerCall(made(head, laterBody())), Quotes.UnsupportedQuote.selector);
            head = bytes.concat(HEADER_5, hex"020048020000");
            head[i] ^= 0x01;
            refused(registerCall(made(head, body())), Quotes.UnsupportedQuote.selector);
        }
        // Version 4 has none; the descriptors are not each other's.
        refused(registerCall(made(bytes.concat(HEADER, hex"020048020000"), body())), Quotes.UnsupportedQuote.selector);
        refused(registerCall(made(HEADER_5, body())), Quotes.UnsupportedQuote.selector);
        refused(registerCall(made(bytes.concat(HEADER_5, hex"030088020000"), body())), Quotes.UnsupportedQuote.selector);
    }

    function test_quote_refusesAnyOtherLength() public {
        uint256[8] memory lengths = [uint256(0), 48, 631, 633, 637, 639, 701, 703];
        for (uint256 i = 0; i < lengths.length; i++) {
            Made memory it = sound();
            it.quote.signed = slice(bytes.concat(it.quote.signed, new bytes(71)), 0, lengths[i]);
            refused(registerCall(it), Quotes.MalformedQuote.selector);
        }
    }

    function test_quote_refusesOnlyWhatTheEnclaveDidNotSign() public {
        Made memory it = sound();
        it.quote.qeReport = bytes.concat(it.quote.qeReport, hex"00");
        refused(registerCall(it), Quotes.MalformedQuote.selector);
        it = sound();
        it.quote.qeReport = slice(it.quote.qeReport, 0, 383);
        refused(registerCall(it), Quotes.MalformedQuote.selector);
        it = sound();
        it.quote.qeReport[10] ^= 0x01;
        refused(registerCall(it), Quotes.QeReportNotSigned.selector);
        it = sound();
        (it.quote.qeR, it.quote.qeS) = signP256("somebody", it.quote.qeReport);
        refused(registerCall(it), Quotes.QeReportNotSigned.selector);
        it = sound();
        (it.quote.r, it.quote.s) = signP256("somebody", it.quote.signed);
        refused(registerCall(it), Quotes.QuoteNotSigned.selector);
        it = sound();
        (it.quote.r, it.quote.s) = (0, 0);
        refused(registerCall(it), Quotes.QuoteNotSigned.selector);
    }

    function test_quote_refusesAKeyTheReportDoesNotName() public {
        Made memory it = sound();
        it.quote.qeAuthData = hex"00010204";
        refused(registerCall(it), Quotes.AttestationKeyUnbound.selector);
        it = sound();
        (it.quote.attestationX, it.quote.attestationY) = publicKey("somebody");
        (it.quote.r, it.quote.s) = signP256("somebody", it.quote.signed);
        refused(registerCall(it), Quotes.AttestationKeyUnbound.selector);
        // The other half of the report's data must be zero.
        for (uint256 i = 352; i < 384; i += 31) {
            it = sound();
            it.quote.qeReport[i] = 0x01;
            (it.quote.qeR, it.quote.qeS) = signP256(PCK, it.quote.qeReport);
            refused(registerCall(it), Quotes.AttestationKeyUnbound.selector);
        }
    }

    function changed(uint256 place, bytes1 value) private view returns (bytes memory) {
        bytes memory b = body();
        b[place] = value;
        return registerCall(made(HEADER, b));
    }

    function changedLater(uint256 place, bytes1 value) private view returns (bytes memory) {
        bytes memory b = laterBody();
        b[place] = value;
        return registerCall(made(bytes.concat(HEADER_5, hex"030088020000"), b));
    }

    function test_quote_refusesModulesOfOthers() public {
        for (uint256 i = 64; i < 120; i++) refused(changed(i, 0x01), Quotes.ModuleMismatch.selector);
    }

    function test_quote_refusesAttributes() public {
        refused(changed(120, 0x01), Quotes.DebugEnabled.selector);
        for (uint256 bit = 1; bit < 64; bit++) {
            bytes memory b = body();
            b[120 + bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
            bytes memory call = registerCall(made(HEADER, b));
            bytes8 attributes = bytes8(slice(b, 120, 128));
            if (bit == 27) refused(call, abi.encodeWithSelector(RunnerRegistry.WorkloadNotApproved.selector, workloadOf(b)));
            else refused(call, abi.encodeWithSelector(Quotes.AttributesNotAllowed.selector, attributes));
        }
    }

    /// @dev MRSERVICETD, the last 48 bytes.
    function test_quote_refusesServiceDomains() public {
        bytes memory with = abi.encodeWithSelector(Quotes.AttributesNotAllowed.selector, bytes8(uint64(0x10) << 32));
        for (uint256 i = 600; i < 648; i++) refused(changedLater(i, 0x01), with);
    }

    function test_quote_whatTheReportDataDoesNotNameIsRefused() public {
        for (uint256 i = 520; i < 584; i++) {
            Made memory it = sound();
            bytes memory signed = it.quote.signed;
            signed[48 + i] ^= 0x01;
            it.quote = quoteOf(signed);
            refused(registerCall(it), RunnerRegistry.ReportDataMismatch.selector);
        }
    }

    /// @dev Each part of the statement: what is sent differs from what the report data commits to.
    function test_claim_everyPartIsCommittedTo() public {
        bytes4 mismatch = RunnerRegistry.ReportDataMismatch.selector;
        Made memory it = sound();
        it.claim.hpkeKey ^= bytes32(uint256(1));
        refused(registerCall(it), mismatch);
        it = sound();
        it.claim.gpuEvidence ^= bytes32(uint256(1));
        refused(registerCall(it), mismatch);
        it = sound();
        it.claim.nonceBlock--;
        refused(registerCall(it), mismatch);
        it = sound();
        it.claim.notAfter++;
        refused(registerCall(it), mismatch);
        it = sound();
        it.claim.signerX ^= bytes32(uint256(1));
        refused(registerCall(it), mismatch);
        it = sound();
        it.claim.signerY ^= bytes32(uint256(1));
        refused(registerCall(it), mismatch);
    }

    function test_claim_refusesAnotherProviderOrSigner() public {
        bytes4 unsigned = RunnerRegistry.NotSignedByRunner.selector;
        Made memory it = sound();
        it.claim.provider = address(0x1002);
        refused(registerCall(it), unsigned);
        it = sound();
        it.claim.r ^= bytes32(uint256(1));
        refused(registerCall(it), unsigned);
        it = sound();
        it.claim.yParityAndS ^= bytes32(uint256(1) << 255);
        refused(registerCall(it), unsigned);
        it = sound();
        (it.claim.r, it.claim.yParityAndS) = (0, 0);
        refused(registerCall(it), unsigned);
    }

    function test_claim_refusesAStatementOfYesterday() public {
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        claim.notAfter = uint64(NOW);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        claim.notAfter = uint64(NOW - 1);
        refused(
            registerCall(made(HEADER, body(), claim, RUNNER)),
            abi.encodeWithSelector(RunnerRegistry.StatementExpired.selector, uint64(NOW - 1))
        );
    }

    function test_claim_refusesNoncesThatAreNotRecent() public {
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        bytes4 stale = RunnerRegistry.NonceNotRecent.selector;
        claim.nonceBlock = uint64(BLOCK - 256);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        claim.nonceBlock = uint64(BLOCK - 257);
        refused(registerCall(made(HEADER, body(), claim, RUNNER)), stale);
        claim.nonceBlock = uint64(BLOCK);
        refused(registerCall(made(HEADER, body(), claim, RUNNER)), stale);
        claim.nonceBlock = uint64(BLOCK + 1);
        refused(registerCall(made(HEADER, body(), claim, RUNNER)), stale);
    }

    /// @dev EIP-2935 answers 32 bytes; anything else is no hash.
    function test_claim_olderNoncesComeFromTheHistoryContract() public {
        address history = 0x0000F90827F1C53a10cb7A02335B175320002935;
        bytes32 hash = keccak256("an older block");
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        claim.nonceBlock = uint64(BLOCK - 300);
        bytes memory b = body();
        bytes32 digest = digestOf(claim, workloadOf(b), hash);
        bind(b, RUNNER, claim.notAfter, digest);
        sealClaim(claim, RUNNER, digest);
        bytes memory call = registerCall(Made(quoteOf(bytes.concat(HEADER, b)), claim));
        bytes4 stale = RunnerRegistry.NonceNotRecent.selector;
        refused(call, stale);
        // Reverts; answers 31 bytes; answers 33; answers zero.
        vm.etch(history, hex"5f5ffd");
        refused(call, stale);
        vm.etch(history, bytes.concat(hex"7f", hash, hex"5f52601f5ff3"));
        refused(call, stale);
        vm.etch(history, bytes.concat(hex"7f", hash, hex"5f5260215ff3"));
        refused(call, stale);
        vm.etch(history, hex"60205ff3");
        refused(call, stale);
        // Answers the hash, but fails.
        vm.etch(history, bytes.concat(hex"7f", hash, hex"5f5260205ffd"));
        refused(call, stale);
        vm.etch(history, bytes.concat(hex"7f", hash, hex"5f5260205ff3"));
        send(call);
        // A block to come has no hash, whoever says one.
        claim.nonceBlock = uint64(BLOCK);
        (b, digest) = (body(), digestOf(claim, workloadOf(body()), hash));
        bind(b, RUNNER, claim.notAfter, digest);
        sealClaim(claim, RUNNER, digest);
        refused(registerCall(Made(quoteOf(bytes.concat(HEADER, b)), claim)), stale);
    }

    /// @dev What the chain itself remembers, no contract is asked for.
    function test_claim_recentNoncesComeFromTheChainItself() public {
        vm.etch(0x0000F90827F1C53a10cb7A02335B175320002935, bytes.concat(hex"7f", keccak256("another hash"), hex"5f5260205ff3"));
        send(registerCall(sound()));
        require(registry.isActiveNow(vm.addr(RUNNER)), "not active");
    }

    function test_claim_refusesNoncesFromBeforeTheKillSwitch() public {
        registry.kill();
        refused(registerCall(sound()), RunnerRegistry.NonceNotRecent.selector);
        vm.roll(BLOCK + 2);
        vm.warp(NOW + 12);
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        claim.nonceBlock = uint64(BLOCK);
        refused(registerCall(made(HEADER, body(), claim, RUNNER)), RunnerRegistry.NonceNotRecent.selector);
        claim.nonceBlock = uint64(BLOCK + 1);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        require(registry.isActiveNow(vm.addr(RUNNER)), "not active");
    }

    /// @dev A statement made before a fork of the chain does not count on the other side, which has another domain.
    function test_claim_countsOnItsOwnChainOnly() public {
        Made memory it = sound();
        vm.chainId(1337);
        refused(registerCall(it), RunnerRegistry.ReportDataMismatch.selector);
        RunnerRegistry.Claim memory claim = it.claim;
        bytes memory b = body();
        bytes32 digest = sha256(
            bytes.concat(
                abi.encodePacked(bytes8("ASYDstmt"), uint64(1337), address(registry)),
                abi.encodePacked(uint256(claim.signerY) % 2 == 0 ? bytes1(0x02) : bytes1(0x03), claim.signerX, claim.hpkeKey),
                abi.encodePacked(blockhash(claim.nonceBlock), claim.gpuEvidence, workloadOf(b), claim.notAfter)
            )
        );
        bind(b, RUNNER, claim.notAfter, digest);
        it.quote = quoteOf(bytes.concat(HEADER, b));
        // Signed for the chain the registry was made on.
        vm.chainId(31337);
        sealClaim(claim, RUNNER, digest);
        vm.chainId(1337);
        refused(registerCall(it), RunnerRegistry.NotSignedByRunner.selector);
        sealClaim(claim, RUNNER, digest);
        send(registerCall(it));
        assertEq(runner().provider, PROVIDER);
    }

    function test_platform_refusesUnknownAndDenied() public {
        Made memory it = sound();
        it.quote.platform.serial++;
        refused(
            registerCall(it), abi.encodeWithSelector(Quotes.UnknownPlatform.selector, registry.platformId(it.quote.platform))
        );
        bytes32 id = registry.platformId(platformKey());
        registry.denyPlatform(id);
        refused(registerCall(sound()), abi.encodeWithSelector(Quotes.PlatformIsDenied.selector, id));
        // Registering the certificate again lifts nothing.
        send(pckCall(pckCertificate(7), PLATFORM_CA));
        refused(registerCall(sound()), abi.encodeWithSelector(Quotes.PlatformIsDenied.selector, id));
    }

    function test_platform_onlyTheOwnerDenies() public {
        bytes32 id = registry.platformId(platformKey());
        vm.prank(address(9));
        (bool ok,) = address(registry).call(abi.encodeCall(registry.denyPlatform, (id)));
        require(!ok, "was taken");
        send(registerCall(sound()));
    }

    function test_platform_strikeTakesARevokedCertificateOnly() public {
        bytes32 id = registry.platformId(platformKey());
        bytes32 issuer = issuerOf(PLATFORM_CA);
        bytes memory strike = abi.encodeCall(registry.strike, (platformKey()));
        refused(strike, abi.encodeWithSelector(Platforms.NotRevoked.selector, issuer, 7));
        send(revocationCall(PLATFORM_CA, 7, 2));
        // Revoked, and not yet struck: a registered platform stays until somebody strikes it.
        send(registerCall(sound()));
        send(strike);
        refused(registerCall(sound()), abi.encodeWithSelector(Quotes.PlatformIsRevoked.selector, id));
        refused(
            pckCall(pckCertificate(7), PLATFORM_CA), abi.encodeWithSelector(Issuers.CertificateIsRevoked.selector, issuer, 7)
        );
    }

    function test_platform_lapsesWithItsCertificate() public {
        Tbs memory tbs = pckCertificate(7);
        tbs.validity = Asn1.sequence(bytes.concat(Asn1.time("260101000000Z"), Asn1.time("260601000030Z")));
        send(pckCall(tbs, PLATFORM_CA));
        send(registerCall(sound()));
        assertEq(runner().validUntil, NOW + 30);
        vm.warp(NOW + 30);
        send(registerCall(sound()));
        vm.warp(NOW + 31);
        refused(registerCall(sound()), abi.encodeWithSelector(Issuers.CertificateExpired.selector, NOW + 30));
    }
}
