// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Asn1} from "./Evidence.sol";
import {Packing} from "./Packing.sol";
import {Vendor} from "./Vendor.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {Certificates, Role} from "../attestation/Certificates.sol";
import {Collateral} from "../attestation/Collateral.sol";
import {Issuers} from "../attestation/Issuers.sol";
import {Platforms} from "../attestation/Platforms.sol";

/// @notice Checks who may post certificates and revocation lists, and what each does to what rests on it.
contract IssuersTest is Vendor {
    function setUp() public {
        open();
    }

    function from(string memory notBefore, string memory notAfter) private pure returns (bytes memory) {
        return Asn1.sequence(bytes.concat(Asn1.time(notBefore), Asn1.time(notAfter)));
    }

    function role(string memory name) private view returns (Role is_) {
        (is_,,,,,) = registry.issuers(issuerOf(name));
    }

    function isRevoked(string memory name) private view returns (bool revoked) {
        (, revoked,,,,) = registry.issuers(issuerOf(name));
    }

    function test_issuer_onlyWhatTheRootSigned() public {
        Tbs memory tbs = certificate(ROOT, PLATFORM_CA, 1, true);
        refused(issuerCall(tbs, "somebody"), Issuers.CertificateNotSigned.selector);
        require(role(PLATFORM_CA) == Role.None, "was added");
        send(issuerCall(tbs, ROOT));
        require(role(PLATFORM_CA) == Role.PckCa, "was not added");
        // Again: nothing happens that had not.
        send(issuerCall(tbs, ROOT));
        require(role(PLATFORM_CA) == Role.PckCa, "is lost");
    }

    function test_issuer_underTheRootsNameOnly() public {
        refused(
            issuerCall(certificate("Other SGX Root CA", PLATFORM_CA, 1, true), ROOT),
            abi.encodeWithSelector(Issuers.IssuerMismatch.selector, nameHash("Other SGX Root CA"))
        );
    }

    function test_issuer_noMachine() public {
        refused(issuerCall(certificate(ROOT, PCK, 1, false), ROOT), Issuers.CertificateRole.selector);
    }

    function test_issuer_withinItsDates() public {
        Tbs memory tbs = certificate(ROOT, PLATFORM_CA, 1, true);
        tbs.validity = from("260601000001Z", "461231235959Z");
        refused(issuerCall(tbs, ROOT), abi.encodeWithSelector(Issuers.CertificateNotYetValid.selector, NOW + 1));
        tbs.validity = from("260101000000Z", "260531235959Z");
        refused(issuerCall(tbs, ROOT), abi.encodeWithSelector(Issuers.CertificateExpired.selector, NOW - 1));
        tbs.validity = from("260601000000Z", "260601000000Z");
        send(issuerCall(tbs, ROOT));
        send(listCall(revocations(PLATFORM_CA, 1), PLATFORM_CA));
        vm.warp(NOW + 1);
        refused(
            listCall(revocations(PLATFORM_CA, 1), PLATFORM_CA),
            abi.encodeWithSelector(Issuers.CertificateExpired.selector, NOW)
        );
    }

    function test_list_byItsIssuerOnly() public {
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT));
        (bytes32 x, bytes32 y) = publicKey(PLATFORM_CA);
        bytes memory der = written(revocations(PLATFORM_CA, 1));
        (bytes32 r, bytes32 s) = signP256("somebody", der);
        refused(
            abi.encodeCall(registry.postCrl, (Packing.literally(der), r, s, x, y, new uint256[](0))), Issuers.CrlNotSigned.selector
        );
        // Signed by the CA's key, in the root's name: nobody is both.
        refused(
            listCall(revocations(ROOT, 1), PLATFORM_CA),
            abi.encodeWithSelector(Issuers.IssuerUnknown.selector, registry.issuerId(x, y, nameHash(ROOT)))
        );
        send(listCall(revocations(PLATFORM_CA, 1), PLATFORM_CA));
    }

    function test_list_notByASignerOfCollateral() public {
        send(issuerCall(certificate(ROOT, TCB_SIGNER, 2, false), ROOT));
        refused(listCall(revocations(TCB_SIGNER, 1), TCB_SIGNER), Issuers.CertificateRole.selector);
        send(listCall(revocations(ROOT, 1), ROOT));
    }

    function test_list_withinItsDates() public {
        TbsList memory list = revocations(ROOT, 1);
        list.thisUpdate = Asn1.time("260601000001Z");
        refused(
            listCall(list, ROOT), abi.encodeWithSelector(Issuers.CrlNotCurrent.selector, NOW + 1, 1_781_827_200)
        );
        list.thisUpdate = Asn1.time("260601000000Z");
        list.nextUpdate = Asn1.time("260601000000Z");
        send(listCall(list, ROOT));
        list.thisUpdate = Asn1.time("260520000000Z");
        list.nextUpdate = Asn1.time("260531235959Z");
        refused(
            listCall(list, ROOT), abi.encodeWithSelector(Issuers.CrlNotCurrent.selector, 1_779_235_200, NOW - 1)
        );
    }

    function test_list_neverGoesBack() public {
        TbsList memory list = revocations(ROOT, 5);
        list.thisUpdate = Asn1.time("260521000000Z");
        send(listCall(list, ROOT));
        send(listCall(list, ROOT));
        TbsList memory older = revocations(ROOT, 4);
        older.thisUpdate = Asn1.time("260522000000Z");
        refused(
            listCall(older, ROOT), abi.encodeWithSelector(Issuers.CrlOlderThanPosted.selector, 4, 1_779_408_000)
        );
        older = revocations(ROOT, 6);
        refused(
            listCall(older, ROOT), abi.encodeWithSelector(Issuers.CrlOlderThanPosted.selector, 6, 1_779_235_200)
        );
    }

    function test_list_revokesWhatItNames() public {
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT));
        send(issuerCall(certificate(ROOT, TCB_SIGNER, 2, false), ROOT));
        require(!registry.revokedSerials(registry.serialKey(issuerOf(ROOT), 1)), "already revoked");
        send(revocationCall(ROOT, 1, 1));
        require(registry.revokedSerials(registry.serialKey(issuerOf(ROOT), 1)), "not revoked");
        require(isRevoked(PLATFORM_CA) && !isRevoked(TCB_SIGNER), "another");
        refused(
            listCall(revocations(PLATFORM_CA, 1), PLATFORM_CA),
            abi.encodeWithSelector(Issuers.IssuerRevoked.selector, issuerOf(PLATFORM_CA))
        );
        refused(
            issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT),
            abi.encodeWithSelector(Issuers.CertificateIsRevoked.selector, issuerOf(ROOT), 1)
        );
        // A revoked key stays revoked under another number too.
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 3, true), ROOT));
        require(isRevoked(PLATFORM_CA), "came back");
        // Only a signer of collateral takes with it what it signed, and only once.
        assertEq(epoch(), 0);
        send(revocationCall(ROOT, 2, 2));
        assertEq(epoch(), 1);
        send(revocationCall(ROOT, 2, 3));
        assertEq(epoch(), 1);
    }

    function epoch() private view returns (uint256 collateralEpoch) {
        (,,,,, collateralEpoch,) = registry.tcbRules();
    }

    /// @dev A number nobody here has seen is remembered all the same.
    function test_list_revokesAheadOfTime() public {
        send(revocationCall(ROOT, 1, 1));
        refused(
            issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT),
            abi.encodeWithSelector(Issuers.CertificateIsRevoked.selector, issuerOf(ROOT), 1)
        );
        assertEq(epoch(), 0);
        (, bool nobody,,,,) = registry.issuers(0);
        require(!nobody, "a number of nobody's revoked somebody");
    }

    function test_pck_onlyWhatACaSigned() public {
        Tbs memory tbs = pckCertificate(7);
        refused(
            pckCall(tbs, PLATFORM_CA), abi.encodeWithSelector(Issuers.IssuerUnknown.selector, issuerOf(PLATFORM_CA))
        );
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT));
        bytes memory der = written(tbs);
        (bytes32 x, bytes32 y) = publicKey(PLATFORM_CA);
        (bytes32 r, bytes32 s) = signP256("somebody", der);
        refused(abi.encodeCall(registry.registerPck, (der, r, s, x, y)), Issuers.CertificateNotSigned.selector);
        send(pckCall(tbs, PLATFORM_CA));
    }

    /// @dev Neither the root nor a signer of collateral vouches for machines.
    function test_pck_notByOthersWhoSign() public {
        send(issuerCall(certificate(ROOT, TCB_SIGNER, 2, false), ROOT));
        Tbs memory tbs = pckCertificate(7);
        tbs.issuer = Asn1.name(TCB_SIGNER);
        refused(pckCall(tbs, TCB_SIGNER), Issuers.CertificateRole.selector);
        tbs.issuer = Asn1.name(ROOT);
        refused(pckCall(tbs, ROOT), Issuers.CertificateRole.selector);
    }

    function test_pck_withinItsDates() public {
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT));
        Tbs memory tbs = pckCertificate(7);
        tbs.validity = from("260601000001Z", "461231235959Z");
        refused(pckCall(tbs, PLATFORM_CA), abi.encodeWithSelector(Issuers.CertificateNotYetValid.selector, NOW + 1));
        tbs.validity = from("260101000000Z", "260531235959Z");
        refused(pckCall(tbs, PLATFORM_CA), abi.encodeWithSelector(Issuers.CertificateExpired.selector, NOW - 1));
    }

    function test_pck_noCaAndNoSigner() public {
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT));
        bytes4 wrong = Certificates.CertificateRole.selector;
        refused(pckCall(certificate(PLATFORM_CA, TCB_SIGNER, 7, false), PLATFORM_CA), wrong);
        refused(pckCall(certificate(PLATFORM_CA, PLATFORM_CA, 7, true), PLATFORM_CA), wrong);
    }

    /// @dev Zeros, halves exchanged and numbers above the order are no signature; the other root of the same equation is one.
    function test_signature_inTheCurvesOwnBounds() public {
        Tbs memory tbs = certificate(ROOT, PLATFORM_CA, 1, true);
        bytes memory der = written(tbs);
        refused(
            abi.encodeCall(registry.addIssuer, (der, bytes32(0), bytes32(0))), Issuers.CertificateNotSigned.selector
        );
        (bytes32 r, bytes32 s) = signP256(ROOT, der);
        refused(abi.encodeCall(registry.addIssuer, (der, s, r)), Issuers.CertificateNotSigned.selector);
        refused(
            abi.encodeCall(registry.addIssuer, (der, bytes32(type(uint256).max), s)),
            Issuers.CertificateNotSigned.selector
        );
        // The vendor does not choose the lower one.
        uint256 order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551;
        send(abi.encodeCall(registry.addIssuer, (der, r, bytes32(order - uint256(s)))));
        require(role(PLATFORM_CA) == Role.PckCa, "was not added");
    }

    function test_root_isAnIssuerForEver() public view {
        (bytes32 x, bytes32 y) = publicKey(ROOT);
        assertEq(registry.root(), registry.issuerId(x, y, nameHash(ROOT)));
        (Role is_, bool revoked, uint40 notAfter,,,) = registry.issuers(registry.root());
        require(is_ == Role.Root && !revoked && notAfter == type(uint40).max, "root");
    }
}

/// @notice Checks who may post collateral, how old it may be, and what status it gives a runner.
contract CollateralTest is Vendor {
    string private constant LATER = '"issueDate":"2026-05-26T00:00:00Z","nextUpdate":"2026-06-25T00:00:00Z';
    uint256 private constant ISSUED = 1_779_667_200;
    uint256 private constant UNTIL = 1_782_259_200;

    function setUp() public {
        open();
        postAll();
    }

    function test_collateral_bySignersOfCollateralOnly() public {
        refused(infoCall(tcbInfo(), PLATFORM_CA), Issuers.CertificateRole.selector);
        refused(identityCall(qeIdentity(), PLATFORM_CA), Issuers.CertificateRole.selector);
        refused(infoCall(tcbInfo(), ROOT), Issuers.CertificateRole.selector);
        refused(
            infoCall(tcbInfo(), "somebody"),
            abi.encodeWithSelector(Issuers.IssuerUnknown.selector, issuerOf("somebody"))
        );
        (bytes32 r, bytes32 s) = signP256("somebody", bytes(tcbInfo()));
        bytes memory call = abi.encodeCall(registry.postTcbInfo, (signerOf(TCB_SIGNER), Packing.literally(bytes(tcbInfo())), r, s));
        refused(call, Collateral.CollateralNotSigned.selector);
    }

    function notCurrent(uint256 issued, uint256 until) private pure returns (bytes memory) {
        return abi.encodeWithSelector(Collateral.CollateralNotCurrent.selector, issued, until);
    }

    function test_collateral_withinItsDates() public {
        string memory dates = '"issueDate":"2026-06-01T00:00:01Z","nextUpdate":"2026-06-24T00:00:00Z';
        refused(infoCall(tcbInfo(dates, "18", modules(), levels()), TCB_SIGNER), notCurrent(NOW + 1, UNTIL));
        refused(identityCall(qeIdentity(dates, "18", versionLevel("4", "UpToDate")), TCB_SIGNER), notCurrent(NOW + 1, UNTIL));
        dates = '"issueDate":"2026-05-25T00:00:00Z","nextUpdate":"2026-05-31T23:59:59Z';
        refused(infoCall(tcbInfo(dates, "18", modules(), levels()), TCB_SIGNER), notCurrent(ISSUED, NOW - 1));
        dates = '"issueDate":"2026-05-25T00:00:00Z","nextUpdate":"2106-02-07T06:28:16Z';
        refused(infoCall(tcbInfo(dates, "18", modules(), levels()), TCB_SIGNER), notCurrent(ISSUED, 1 << 32));
        dates = '"issueDate":"2026-05-25T00:00:00Z","nextUpdate":"2106-02-07T06:28:15Z';
        send(infoCall(tcbInfo(dates, "18", modules(), levels()), TCB_SIGNER));
        dates = '"issueDate":"2026-06-01T00:00:00Z","nextUpdate":"2026-06-01T00:00:00Z';
        send(infoCall(tcbInfo(dates, "18", modules(), levels()), TCB_SIGNER));
    }

    function test_collateral_neverGoesBack() public {
        send(infoCall(tcbInfo(LATER, "19", modules(), levels()), TCB_SIGNER));
        send(infoCall(tcbInfo(LATER, "19", modules(), levels()), TCB_SIGNER));
        bytes4 older = Collateral.CollateralOlderThanPosted.selector;
        refused(
            infoCall(tcbInfo(LATER, "18", modules(), levels()), TCB_SIGNER),
            abi.encodeWithSelector(older, 18, ISSUED + 1 days)
        );
        refused(
            infoCall(tcbInfo(DATES, "19", modules(), levels()), TCB_SIGNER), abi.encodeWithSelector(older, 19, ISSUED)
        );
        string memory versions_ = versionLevel("4", "UpToDate");
        send(identityCall(qeIdentity(LATER, "19", versions_), TCB_SIGNER));
        refused(
            identityCall(qeIdentity(LATER, "18", versions_), TCB_SIGNER),
            abi.encodeWithSelector(older, 18, ISSUED + 1 days)
        );
        refused(identityCall(qeIdentity(DATES, "19", versions_), TCB_SIGNER), abi.encodeWithSelector(older, 19, ISSUED));
        Collateral.Posted memory posted = registry.qeIdentity();
        assertEq(posted.evaluation, 19);
        assertEq(posted.issueDate, ISSUED + 1 days);
        assertEq(posted.nextUpdate, UNTIL + 1 days);
    }

    function table() private view returns (address at) {
        (at,,,,) = registry.tcbInfos(bytes8(hex"00a55a7000000000"));
    }

    /// @dev Renewed dates keep the levels where they lie; other levels lie elsewhere.
    function test_collateral_storesLevelsThatDiffer() public {
        address before = table();
        send(infoCall(tcbInfo(LATER, "19", modules(), levels()), TCB_SIGNER));
        assertEq(table(), before);
        (, uint256 issued, uint256 until, uint256 evaluation,) = registry.tcbInfos(bytes8(hex"00a55a7000000000"));
        assertEq(issued, ISSUED + 1 days);
        assertEq(until, UNTIL + 1 days);
        assertEq(evaluation, 19);
        send(infoCall(tcbInfo(LATER, "19", modules(), level("5", "2", "13", "UpToDate")), TCB_SIGNER));
        require(table() != before, "levels were not stored");
    }

    function missing(bytes8 platform) private pure returns (bytes memory) {
        return abi.encodeWithSelector(Collateral.CollateralMissing.selector, platform);
    }

    function test_collateral_noneForAnotherPlatform() public {
        Tbs memory tbs = pckCertificate(7);
        bytes memory members = bytes.concat(
            member(2, Asn1.sequence(versions())), member(3, hex"04020001"), member(4, hex"040600a55a700000")
        );
        Tbs memory bare = certificate(PLATFORM_CA, PCK, 7, false);
        tbs.extensions = bytes.concat(bare.extensions, sgxExtension(members));
        send(pckCall(tbs, PLATFORM_CA));
        refused(registerCall(sound()), missing(hex"00a55a7000000001"));
    }

    function test_collateral_endsWithItsSigner() public {
        send(revocationCall(ROOT, 2, 1));
        refused(registerCall(sound()), missing(0));
        bytes memory signerRevoked = abi.encodeWithSelector(Issuers.IssuerRevoked.selector, issuerOf(TCB_SIGNER));
        refused(identityCall(qeIdentity(), TCB_SIGNER), signerRevoked);
        // Another signer posts the identity anew; what the first said of the platform still counts no more.
        string memory another = "Another SGX TCB Signing";
        send(issuerCall(certificate(ROOT, another, 9, false), ROOT));
        send(identityCall(qeIdentity(), another));
        refused(registerCall(sound()), missing(hex"00a55a7000000000"));
        send(infoCall(tcbInfo(), another));
        send(registerCall(sound()));
    }

    function test_collateral_asksForTheIdentityFirst() public {
        open();
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT));
        send(issuerCall(certificate(ROOT, TCB_SIGNER, 2, false), ROOT));
        send(pckCall(pckCertificate(7), PLATFORM_CA));
        send(listCall(revocations(PLATFORM_CA, 1), PLATFORM_CA));
        Collateral.Posted memory posted = registry.qeIdentity();
        assertEq(posted.table, address(0));
        assertEq(posted.issueDate, 0);
        refused(registerCall(sound()), missing(0));
        send(identityCall(qeIdentity(), TCB_SIGNER));
        refused(registerCall(sound()), missing(hex"00a55a7000000000"));
    }

    /// @dev Until the earliest of certificate, list, issuer, identity and levels; a second later it is refused.
    function test_collateral_lapsesWithTheFirstOfIt() public {
        uint256 listUntil = 1_781_827_200;
        uint256 ageUntil = ISSUED + 14 days;
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        vm.warp(ageUntil - 1);
        claim.notAfter = uint64(ageUntil + 20 days);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        assertEq(validUntil(), ageUntil);
        vm.warp(ageUntil);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        vm.warp(ageUntil + 1);
        bytes memory tooOld = abi.encodeWithSelector(Collateral.CollateralTooOld.selector, ISSUED, 18);
        refused(registerCall(made(HEADER, body(), claim, RUNNER)), tooOld);
        registry.setTcbRules(3, 17, 60 * 24, true);
        vm.warp(listUntil - 1);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        assertEq(validUntil(), listUntil);
        vm.warp(listUntil);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        vm.warp(listUntil + 1);
        refused(
            registerCall(made(HEADER, body(), claim, RUNNER)),
            abi.encodeWithSelector(Issuers.CrlNotCurrent.selector, 1_779_235_200, listUntil)
        );
        TbsList memory list = revocations(PLATFORM_CA, 2);
        list.nextUpdate = Asn1.time("260801000000Z");
        send(listCall(list, PLATFORM_CA));
        vm.warp(UNTIL - 1);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        assertEq(validUntil(), UNTIL);
        vm.warp(UNTIL);
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        vm.warp(UNTIL + 1);
        refused(registerCall(made(HEADER, body(), claim, RUNNER)), notCurrent(ISSUED, UNTIL));
    }

    function validUntil() private view returns (uint256 until) {
        (,, until,,,) = registry.runners(vm.addr(RUNNER));
    }

    /// @dev The levels alone, then the identity alone, are older than the other.
    function test_collateral_eachHasItsOwnAge() public {
        string memory older = '"issueDate":"2026-05-25T00:00:00Z","nextUpdate":"2026-06-01T00:00:10Z';
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        send(infoCall(tcbInfo(older, "18", modules(), levels()), TCB_SIGNER));
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        assertEq(validUntil(), NOW + 10);
        send(infoCall(tcbInfo(), TCB_SIGNER));
        older = '"issueDate":"2026-05-25T00:00:00Z","nextUpdate":"2026-06-01T00:00:20Z';
        send(identityCall(qeIdentity(older, "18", versionLevel("4", "UpToDate")), TCB_SIGNER));
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        assertEq(validUntil(), NOW + 20);
        vm.warp(NOW + 21);
        refused(registerCall(made(HEADER, body(), claim, RUNNER)), notCurrent(ISSUED, NOW + 20));
        // The CA's own certificate comes first.
        Tbs memory tbs = certificate(ROOT, PLATFORM_CA, 1, true);
        tbs.validity = Asn1.sequence(bytes.concat(Asn1.time("260101000000Z"), Asn1.time("260601000035Z")));
        send(issuerCall(tbs, ROOT));
        send(identityCall(qeIdentity(), TCB_SIGNER));
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        assertEq(validUntil(), NOW + 35);
        vm.warp(NOW + 36);
        refused(
            registerCall(made(HEADER, body(), claim, RUNNER)),
            abi.encodeWithSelector(Issuers.CertificateExpired.selector, NOW + 35)
        );
    }

    function test_collateral_evaluationsBelowTheFloor() public {
        registry.setTcbRules(3, 19, 14 * 24, true);
        bytes memory below = abi.encodeWithSelector(Collateral.CollateralTooOld.selector, ISSUED, 18);
        refused(registerCall(sound()), below);
        send(identityCall(qeIdentity(DATES, "19", versionLevel("4", "UpToDate")), TCB_SIGNER));
        refused(registerCall(sound()), below);
        send(infoCall(tcbInfo(DATES, "19", modules(), levels()), TCB_SIGNER));
        send(registerCall(sound()));
    }

    function test_list_isAskedForUnlessWaived() public {
        open();
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT));
        send(issuerCall(certificate(ROOT, TCB_SIGNER, 2, false), ROOT));
        send(pckCall(pckCertificate(7), PLATFORM_CA));
        send(infoCall(tcbInfo(), TCB_SIGNER));
        send(identityCall(qeIdentity(), TCB_SIGNER));
        registry.approve(workloadOf(body()));
        refused(registerCall(sound()), abi.encodeWithSelector(Issuers.CrlMissing.selector, issuerOf(PLATFORM_CA)));
        registry.setTcbRules(3, 17, 14 * 24, false);
        send(registerCall(sound()));
        // Revoked, the CA vouches for nothing.
        send(revocationCall(ROOT, 1, 1));
        refused(registerCall(sound()), abi.encodeWithSelector(Issuers.IssuerRevoked.selector, issuerOf(PLATFORM_CA)));
    }
}
