// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AttestationReader} from "../attestation/AttestationReader.sol";
import {Certificate, Certificates, Role} from "../attestation/Certificates.sol";
import {Crl, Crls} from "../attestation/Crls.sol";
import {Der} from "../attestation/Der.sol";
import {PckExtension, Platform} from "../attestation/PckExtension.sol";
import {Time} from "../attestation/Time.sol";
import {Asn1, Evidence} from "./Evidence.sol";

/// @dev Reads what is written, and refuses each thing written wrongly, by name. No signature is asked for here: even one who signs must write strictly.
abstract contract Reading is Evidence {
    AttestationReader internal reader =
        AttestationReader(vm.deployCode("AttestationReader.sol:AttestationReader", ""));

    function refused(bytes memory call, bytes4 with) internal view {
        (bool ok, bytes memory answer) = address(reader).staticcall(call);
        require(!ok, "was taken");
        assertEq(bytes32(bytes4(answer)), bytes32(with));
        // An error with no arguments comes alone.
        if (with != Crls.NotInCrl.selector) assertEq(answer.length, 4);
    }

    function refusedCertificate(Tbs memory tbs, bytes4 with) internal view {
        refused(abi.encodeCall(reader.certificate, (written(tbs))), with);
    }

    function refusedPck(Tbs memory tbs, bytes4 with) internal view {
        refused(abi.encodeCall(reader.pck, (written(tbs))), with);
    }

    function refusedList(TbsList memory list, bytes4 with) internal view {
        refused(abi.encodeCall(reader.crl, (written(list), new uint256[](0))), with);
    }
}

contract CertificateReadingTest is Reading {
    bytes4 private constant MALFORMED = Certificates.MalformedCertificate.selector;
    bytes4 private constant DER = Der.MalformedDer.selector;
    bytes4 private constant ROLE = Certificates.CertificateRole.selector;

    function leaf() private pure returns (Tbs memory) {
        return certificate(PLATFORM_CA, PCK, 7, false);
    }

    function ca() private pure returns (Tbs memory) {
        return certificate(ROOT, PLATFORM_CA, 1, true);
    }

    function role(Tbs memory tbs) private view returns (Role) {
        return reader.certificate(written(tbs)).role;
    }

    function test_certificate_readsWhatWasWritten() public view {
        Certificate memory c = reader.certificate(written(certificate(ROOT, PLATFORM_CA, 0xabcdef, true)));
        (bytes32 x, bytes32 y) = publicKey(PLATFORM_CA);
        assertEq(c.serial, 0xabcdef);
        assertEq(c.issuer, nameHash(ROOT));
        assertEq(c.subject, nameHash(PLATFORM_CA));
        assertEq(c.notBefore, 1_767_225_600);
        assertEq(c.notAfter, 2_429_913_599);
        assertEq(c.x, x);
        assertEq(c.y, y);
        require(c.role == Role.PckCa, "role");
    }

    function test_certificate_rolesFollowNameAndPowers() public view {
        require(role(ca()) == Role.PckCa, "platform CA");
        require(role(certificate(ROOT, "Test SGX PCK Processor CA", 1, true)) == Role.PckCa, "processor CA");
        require(role(certificate(ROOT, TCB_SIGNER, 1, false)) == Role.TcbSigner, "signer");
        require(role(leaf()) == Role.Pck, "leaf");
        // The ending may be all of it.
        require(role(certificate(PLATFORM_CA, "SGX PCK Certificate", 7, false)) == Role.Pck, "bare leaf");
        refusedCertificate(certificate(PLATFORM_CA, PCK, 1, true), ROLE);
        refusedCertificate(certificate(ROOT, TCB_SIGNER, 1, true), ROLE);
        refusedCertificate(certificate(ROOT, PLATFORM_CA, 1, false), ROLE);
        refusedCertificate(certificate(ROOT, "Test SGX PCK Processor CA", 1, false), ROLE);
        refusedCertificate(certificate(ROOT, "Anything", 1, true), ROLE);
        refusedCertificate(certificate(ROOT, "SGX", 1, true), ROLE);
        refusedCertificate(certificate(ROOT, "Test SGX PCK Certificate.", 1, false), ROLE);
    }

    /// @dev Shorter than the ending it is compared with, so what is compared would begin before the name.
    function test_certificate_refusesShortNames() public view {
        refusedCertificate(certificate(ROOT, "GX PCK Certificate", 1, false), ROLE);
        refusedCertificate(certificate(ROOT, "", 1, false), ROLE);
        Tbs memory tbs = leaf();
        tbs.subject = Asn1.sequence("");
        refusedCertificate(tbs, ROLE);
        // No common name, but another attribute that ends as one should: it stands right before where nothing is read.
        tbs.subject = Asn1.sequence(Asn1.attribute(hex"060355040b", PCK));
        refusedCertificate(tbs, ROLE);
        tbs.subject = Asn1.sequence(Asn1.attribute(hex"060355040b", TCB_SIGNER));
        refusedCertificate(tbs, ROLE);
    }

    function test_certificate_eachPowerOfACaIsAskedFor() public view {
        Tbs memory tbs = ca();
        tbs.extensions = bytes.concat(usage(0x04, 2), constraints(CRITICAL));
        refusedCertificate(tbs, ROLE);
        tbs.extensions = bytes.concat(usage(0x02, 1), constraints(CRITICAL));
        refusedCertificate(tbs, ROLE);
        tbs.extensions = usage(0x06, 1);
        refusedCertificate(tbs, ROLE);
        tbs.extensions = constraints(CRITICAL);
        refusedCertificate(tbs, ROLE);
        tbs.extensions = bytes.concat(usage(0xfe, 1), constraints(CRITICAL));
        require(role(tbs) == Role.PckCa, "more powers than asked for");
    }

    function test_certificate_refusesAnythingAfterwards() public view {
        bytes memory tbs = written(leaf());
        reader.certificate(tbs);
        refused(abi.encodeCall(reader.certificate, (bytes.concat(tbs, hex"00"))), MALFORMED);
        refused(abi.encodeCall(reader.certificate, (new bytes(0))), DER);
        Tbs memory longer = leaf();
        longer.tail = hex"0500";
        refusedCertificate(longer, MALFORMED);
    }

    function test_certificate_refusesAnotherVersionOrAlgorithm() public view {
        Tbs memory tbs = leaf();
        tbs.version = hex"a003020101";
        refusedCertificate(tbs, DER);
        tbs = leaf();
        tbs.version = "";
        refusedCertificate(tbs, DER);
        tbs = leaf();
        tbs.algorithm = hex"300a06082a8648ce3d040303";
        refusedCertificate(tbs, DER);
    }

    function test_certificate_refusesSerialsTooLongOrNegative() public view {
        Tbs memory tbs = leaf();
        tbs.serial = Asn1.integer((1 << 160) - 1);
        reader.certificate(written(tbs));
        tbs.serial = Asn1.integer(1 << 160);
        refusedCertificate(tbs, DER);
        tbs.serial = hex"020180";
        refusedCertificate(tbs, DER);
        tbs.serial = hex"0200";
        refusedCertificate(tbs, DER);
        tbs.serial = Asn1.element(0x02, bytes.concat(hex"01", new bytes(21)));
        refusedCertificate(tbs, DER);
    }

    function test_certificate_refusesAThirdDate() public view {
        Tbs memory tbs = leaf();
        tbs.validity = Asn1.sequence(
            bytes.concat(Asn1.time("260101000000Z"), Asn1.time("461231235959Z"), Asn1.time("461231235959Z"))
        );
        refusedCertificate(tbs, MALFORMED);
        tbs.validity = Asn1.sequence(Asn1.time("260101000000Z"));
        refusedCertificate(tbs, DER);
    }

    function test_certificate_refusesNamesOfAnotherMake() public view {
        Tbs memory tbs = leaf();
        // Two attributes in one relative name, of which only the first would be looked at.
        bytes memory country = Asn1.sequence(hex"06035504060c025553");
        bytes memory common = Asn1.sequence(bytes.concat(hex"0603550403", Asn1.element(0x0c, bytes(PCK))));
        tbs.subject = Asn1.sequence(Asn1.element(0x31, bytes.concat(country, common)));
        refusedCertificate(tbs, MALFORMED);
        tbs.subject = Asn1.sequence(Asn1.element(0x31, Asn1.element(0x31, hex"0603550403")));
        refusedCertificate(tbs, MALFORMED);
        tbs.subject = Asn1.sequence(Asn1.element(0x30, common));
        refusedCertificate(tbs, DER);
    }

    function test_certificate_refusesACommonNameTwice() public view {
        Tbs memory tbs = leaf();
        bytes memory one = Asn1.attribute(hex"0603550403", PCK);
        bytes memory unit = Asn1.attribute(hex"060355040b", "unit");
        tbs.subject = Asn1.sequence(bytes.concat(unit, one));
        require(role(tbs) == Role.Pck, "another attribute before");
        tbs.subject = Asn1.sequence(bytes.concat(one, unit));
        require(role(tbs) == Role.Pck, "another attribute after");
        tbs.subject = Asn1.sequence(bytes.concat(one, one));
        refusedCertificate(tbs, MALFORMED);
        tbs.subject = Asn1.sequence(bytes.concat(Asn1.attribute(hex"0603550403", "Anything"), one));
        refusedCertificate(tbs, MALFORMED);
    }

    function test_certificate_refusesAnythingAfterTheText() public view {
        Tbs memory tbs = leaf();
        bytes memory text = bytes.concat(hex"0603550403", Asn1.element(0x0c, bytes(PCK)), hex"0500");
        tbs.subject = Asn1.sequence(Asn1.element(0x31, Asn1.sequence(text)));
        refusedCertificate(tbs, MALFORMED);
    }

    function test_certificate_refusesAnotherKindOfKey() public view {
        Tbs memory tbs = leaf();
        bytes memory key = tbs.key;
        key[26] = 0x02;
        refusedCertificate(tbs, DER);
        // The key is the end of everything, so that what follows it in the call would be read.
        bytes memory short = Asn1.sequence(
            bytes.concat(
                tbs.version, tbs.serial, tbs.algorithm, tbs.issuer, tbs.validity, tbs.subject,
                hex"3059301306072a8648ce3d020106082a8648ce3d03010703420004", new bytes(63)
            )
        );
        refused(abi.encodeCall(reader.certificate, (short)), MALFORMED);
        // One byte more is a whole key, and what is missing are the extensions.
        bytes memory bare = Asn1.sequence(
            bytes.concat(
                tbs.version, tbs.serial, tbs.algorithm, tbs.issuer, tbs.validity, tbs.subject,
                hex"3059301306072a8648ce3d020106082a8648ce3d03010703420004", new bytes(64)
            )
        );
        refused(abi.encodeCall(reader.certificate, (bare)), DER);
    }

    function test_certificate_refusesExtensionsTwice() public view {
        Tbs memory tbs = leaf();
        tbs.extensions = bytes.concat(usage(0xc0, 6), constraints(""), constraints(""));
        refusedCertificate(tbs, MALFORMED);
        tbs.extensions = bytes.concat(usage(0xc0, 6), constraints(""), usage(0xc0, 6));
        refusedCertificate(tbs, MALFORMED);
        bytes memory sgx = sgxExtension(platformMembers());
        tbs.extensions = bytes.concat(usage(0xc0, 6), constraints(""), sgx, sgx);
        refusedCertificate(tbs, MALFORMED);
        bytes memory unknown = Asn1.extension(hex"0603551d1f", "", hex"0500");
        tbs.extensions = bytes.concat(unknown, usage(0xc0, 6), unknown);
        require(role(tbs) == Role.Pck, "unknown twice");
    }

    function test_certificate_refusesExtensionsThatAreCriticalAndUnknown() public view {
        Tbs memory tbs = leaf();
        bytes memory known = tbs.extensions;
        tbs.extensions = bytes.concat(known, Asn1.extension(hex"0603551d1f", "", hex"0500"));
        require(role(tbs) == Role.Pck, "unknown");
        tbs.extensions = bytes.concat(known, Asn1.extension(hex"0603551d1f", CRITICAL, hex"0500"));
        refusedCertificate(tbs, DER);
        tbs.extensions = bytes.concat(known, Asn1.extension(hex"06092a864886f84d010d01", CRITICAL, hex"3000"));
        refusedCertificate(tbs, DER);
        tbs.extensions = bytes.concat(known, Asn1.extension(hex"0603551d1f", hex"010100", hex"0500"));
        refusedCertificate(tbs, DER);
    }

    function test_certificate_refusesAnythingAroundAnExtension() public view {
        Tbs memory tbs = leaf();
        tbs.extensions = Asn1.extension(BASIC_CONSTRAINTS, hex"010100", hex"3000");
        refusedCertificate(tbs, DER);
        tbs.extensions = Asn1.sequence(bytes.concat(hex"0603551d1f", hex"04020500", hex"0500"));
        refusedCertificate(tbs, MALFORMED);
        tbs.extensions = Asn1.sequence(bytes.concat(KEY_USAGE, CRITICAL, hex"040403020640", hex"0500"));
        refusedCertificate(tbs, MALFORMED);
        // More than one sequence in the explicit tag.
        tbs = leaf();
        bytes memory head = bytes.concat(tbs.version, tbs.serial, tbs.algorithm, tbs.issuer, tbs.validity);
        bytes memory twice = Asn1.element(0xa3, bytes.concat(Asn1.sequence(tbs.extensions), hex"0500"));
        bytes memory whole = Asn1.sequence(bytes.concat(head, tbs.subject, tbs.key, twice));
        refused(abi.encodeCall(reader.certificate, (whole)), MALFORMED);
    }

    function test_certificate_constraintsAreReadStrictly() public view {
        Tbs memory tbs = ca();
        bytes memory keys = usage(0x06, 1);
        // With a path length, as intermediates have it.
        tbs.extensions = bytes.concat(keys, constraints(hex"0101ff020100"));
        require(role(tbs) == Role.PckCa, "path length");
        bytes[5] memory wrong =
            [bytes(hex"010100"), hex"010101", hex"0102ffff", hex"0101ff0500", hex"0101ff0201000500"];
        bytes4[5] memory errors = [MALFORMED, MALFORMED, MALFORMED, DER, MALFORMED];
        for (uint256 i = 0; i < wrong.length; i++) {
            tbs.extensions = bytes.concat(keys, constraints(wrong[i]));
            refusedCertificate(tbs, errors[i]);
        }
        tbs.extensions = bytes.concat(keys, Asn1.extension(BASIC_CONSTRAINTS, CRITICAL, hex"30030101ff0500"));
        refusedCertificate(tbs, MALFORMED);
    }

    /// @dev RFC 5280 leaves the issuer the choice for the two extensions that are understood here.
    function test_certificate_flagsMayBeAbsent() public view {
        Tbs memory tbs = ca();
        tbs.extensions = bytes.concat(
            Asn1.extension(KEY_USAGE, "", hex"03020106"), Asn1.extension(BASIC_CONSTRAINTS, "", hex"30030101ff")
        );
        require(role(tbs) == Role.PckCa, "without flags");
    }

    function test_certificate_usageIsReadStrictly() public view {
        Tbs memory tbs = ca();
        bytes memory rest = constraints(CRITICAL);
        // No bits at all: what follows the value must not be read as bits.
        tbs.extensions = bytes.concat(Asn1.extension(KEY_USAGE, CRITICAL, hex"030106"), rest);
        refusedCertificate(tbs, MALFORMED);
        tbs.extensions = bytes.concat(Asn1.extension(KEY_USAGE, CRITICAL, hex"0300"), rest);
        refusedCertificate(tbs, MALFORMED);
        tbs.extensions = bytes.concat(Asn1.extension(KEY_USAGE, CRITICAL, hex"030201060500"), rest);
        refusedCertificate(tbs, MALFORMED);
    }

    /// @dev Cut anywhere, with nothing but the call's own padding behind it.
    function test_certificate_neverReadsBeyondItsEnd() public view {
        bytes memory tbs = written(leaf());
        for (uint256 length = 0; length < tbs.length; length++) {
            bytes memory cut = new bytes(length);
            for (uint256 i = 0; i < length; i++) cut[i] = tbs[i];
            (bool ok,) = address(reader).staticcall(abi.encodeCall(reader.certificate, (cut)));
            require(!ok, "was taken");
        }
    }
}

contract ListReadingTest is Reading {
    bytes4 private constant MALFORMED = Crls.MalformedCrl.selector;
    bytes4 private constant DER = Der.MalformedDer.selector;

    function list() private pure returns (TbsList memory) {
        return revocations(PLATFORM_CA, 3);
    }

    function read(TbsList memory tbs) private view returns (Crl memory crl) {
        (crl,) = reader.crl(written(tbs), new uint256[](0));
    }

    /// @dev Where the first entry begins: tag and length of the list and of its entries come before.
    function entriesAt(TbsList memory tbs, uint256 header) private pure returns (uint256) {
        return header
            + bytes.concat(tbs.version, tbs.algorithm, tbs.issuer, tbs.thisUpdate, tbs.nextUpdate).length;
    }

    function serials(TbsList memory tbs, uint256[] memory offsets) private view returns (uint256[] memory found) {
        (, found) = reader.crl(written(tbs), offsets);
    }

    function test_list_readsWhatWasWritten() public view {
        Crl memory crl = read(list());
        assertEq(crl.issuer, nameHash(PLATFORM_CA));
        assertEq(crl.thisUpdate, 1_779_235_200);
        assertEq(crl.nextUpdate, 1_781_827_200);
        assertEq(crl.number, 3);
    }

    function test_list_findsEntriesWhereTheyBegin() public view {
        TbsList memory tbs = list();
        tbs.entries = Asn1.sequence(bytes.concat(entry(0x11), entry(0x2222), entry(0x33)));
        uint256 first = entriesAt(tbs, 3 + 2);
        assertEq(uint8(written(tbs)[first]), 0x30);
        uint256[] memory offsets = new uint256[](2);
        offsets[0] = first;
        offsets[1] = first + entry(0x11).length + entry(0x2222).length;
        uint256[] memory found = serials(tbs, offsets);
        assertEq(found[0], 0x11);
        assertEq(found[1], 0x33);
        offsets[0] = first + entry(0x11).length;
        found = serials(tbs, offsets);
        assertEq(found[0], 0x2222);
        assertEq(found[1], 0x33);
    }

    function test_list_refusesOffsetsWhereNoEntryBegins() public view {
        TbsList memory tbs = list();
        tbs.entries = Asn1.sequence(bytes.concat(entry(0x11), entry(0x2222)));
        uint256 first = entriesAt(tbs, 3 + 2);
        bytes memory whole = written(tbs);
        uint256[] memory offsets = new uint256[](1);
        for (offsets[0] = 0; offsets[0] < whole.length; offsets[0]++) {
            if (offsets[0] == first || offsets[0] == first + entry(0x11).length) continue;
            refused(abi.encodeCall(reader.crl, (whole, offsets)), Crls.NotInCrl.selector);
        }
        // Descending, and the same twice: each entry is taken once.
        offsets = new uint256[](2);
        (offsets[0], offsets[1]) = (first + entry(0x11).length, first);
        refused(abi.encodeCall(reader.crl, (whole, offsets)), Crls.NotInCrl.selector);
        offsets[1] = offsets[0];
        refused(abi.encodeCall(reader.crl, (whole, offsets)), Crls.NotInCrl.selector);
    }

    function test_list_hasNoEntriesWhereNoneAreWritten() public view {
        uint256[] memory offsets = new uint256[](1);
        bytes memory whole = written(list());
        for (offsets[0] = 0; offsets[0] <= whole.length; offsets[0]++)
            refused(abi.encodeCall(reader.crl, (whole, offsets)), Crls.NotInCrl.selector);
    }

    function test_list_refusesEntriesWrittenWrongly() public view {
        TbsList memory tbs = list();
        uint256[] memory offsets = new uint256[](1);
        offsets[0] = entriesAt(tbs, 2 + 2);
        tbs.entries = Asn1.sequence(Asn1.sequence(Asn1.integer(1 << 160)));
        if (written(tbs)[1] == 0x81) offsets[0]++;
        refused(abi.encodeCall(reader.crl, (written(tbs), offsets)), DER);
        tbs.entries = Asn1.sequence(Asn1.element(0x31, Asn1.integer(1)));
        refused(abi.encodeCall(reader.crl, (written(tbs), offsets)), DER);
    }

    function test_list_refusesAnotherVersionOrAlgorithm() public view {
        TbsList memory tbs = list();
        tbs.version = Asn1.integer(0);
        refusedList(tbs, MALFORMED);
        tbs.version = Asn1.integer(2);
        refusedList(tbs, MALFORMED);
        tbs = list();
        tbs.version = "";
        refusedList(tbs, DER);
        tbs = list();
        tbs.algorithm = hex"300a06082a8648ce3d040303";
        refusedList(tbs, DER);
        tbs = list();
        tbs.nextUpdate = "";
        refusedList(tbs, DER);
    }

    function test_list_refusesAnythingAfterwards() public view {
        refused(
            abi.encodeCall(reader.crl, (bytes.concat(written(list()), hex"00"), new uint256[](0))), MALFORMED
        );
        TbsList memory tbs = list();
        tbs.tail = hex"0500";
        refusedList(tbs, MALFORMED);
        bytes memory extensions = Asn1.element(0xa0, bytes.concat(Asn1.sequence(list().extensions), hex"0500"));
        bytes memory head = bytes.concat(tbs.version, tbs.algorithm, tbs.issuer, tbs.thisUpdate, tbs.nextUpdate);
        bytes memory whole = Asn1.sequence(bytes.concat(head, extensions));
        refused(abi.encodeCall(reader.crl, (whole, new uint256[](0))), MALFORMED);
    }

    function test_list_asksForNumberAndKeyOnce() public view {
        TbsList memory tbs = list();
        tbs.extensions = authorityKey();
        refusedList(tbs, MALFORMED);
        tbs.extensions = listNumber(Asn1.integer(3));
        refusedList(tbs, MALFORMED);
        tbs.extensions = "";
        refusedList(tbs, MALFORMED);
        tbs.extensions = bytes.concat(authorityKey(), authorityKey(), listNumber(Asn1.integer(3)));
        refusedList(tbs, MALFORMED);
        tbs.extensions = bytes.concat(authorityKey(), listNumber(Asn1.integer(3)), listNumber(Asn1.integer(4)));
        refusedList(tbs, MALFORMED);
        bytes memory unknown = Asn1.extension(hex"0603551d1f", "", hex"0500");
        tbs.extensions = bytes.concat(unknown, authorityKey(), listNumber(Asn1.integer(5)), unknown);
        assertEq(read(tbs).number, 5);
    }

    function test_list_refusesCriticalExtensionsAndLongNumbers() public view {
        TbsList memory tbs = list();
        bytes memory known = tbs.extensions;
        tbs.extensions = bytes.concat(known, Asn1.extension(hex"0603551d1c", CRITICAL, hex"3000"));
        refusedList(tbs, DER);
        tbs.extensions = bytes.concat(authorityKey(), listNumber(Asn1.integer(type(uint112).max)));
        assertEq(read(tbs).number, type(uint112).max);
        tbs.extensions = bytes.concat(authorityKey(), listNumber(Asn1.integer(1 << 112)));
        refusedList(tbs, DER);
    }

    function test_list_neverReadsBeyondItsEnd() public view {
        TbsList memory tbs = list();
        tbs.entries = Asn1.sequence(entry(0x11));
        bytes memory whole = written(tbs);
        for (uint256 length = 0; length < whole.length; length++) {
            bytes memory cut = new bytes(length);
            for (uint256 i = 0; i < length; i++) cut[i] = whole[i];
            (bool ok,) = address(reader).staticcall(abi.encodeCall(reader.crl, (cut, new uint256[](0))));
            require(!ok, "was taken");
        }
    }
}

contract PlatformReadingTest is Reading {
    bytes4 private constant MALFORMED = PckExtension.MalformedPckExtension.selector;
    bytes4 private constant DER = Der.MalformedDer.selector;

    function pckWith(bytes memory members) private pure returns (Tbs memory tbs) {
        tbs = certificate(PLATFORM_CA, PCK, 7, false);
        tbs.extensions = bytes.concat(tbs.extensions, sgxExtension(members));
    }

    function read(bytes memory members) private view returns (Platform memory platform) {
        (, platform) = reader.pck(written(pckWith(members)));
    }

    function pceId(bytes memory value) private pure returns (bytes memory) {
        return member(3, Asn1.element(0x04, value));
    }

    function fmspc(bytes memory value) private pure returns (bytes memory) {
        return member(4, Asn1.element(0x04, value));
    }

    /// @dev The versions with one of them written anew.
    function versionsWith(uint8 index, bytes memory written_) private pure returns (bytes memory list) {
        for (uint8 i = 1; i < 18; i++)
            list = bytes.concat(list, i == index ? written_ : svn(i, Asn1.integer(i == 17 ? 13 : i)));
    }

    function membersWith(bytes memory list) private pure returns (bytes memory) {
        return bytes.concat(member(2, Asn1.sequence(list)), pceId(hex"0102"), fmspc(hex"a1a2a3a4a5a6"));
    }

    function refusedVersion(uint8 index, bytes memory written_) private view {
        refusedPck(pckWith(membersWith(versionsWith(index, written_))), MALFORMED);
    }

    function test_platform_readsWhatWasWritten() public view {
        Platform memory platform = read(membersWith(versionsWith(17, svn(17, Asn1.integer(0x7ffe)))));
        assertEq(bytes32(platform.components), bytes32(bytes16(hex"0102030405060708090a0b0c0d0e0f10")));
        assertEq(platform.pceSvn, 0x7ffe);
        assertEq(bytes32(platform.pceId), bytes32(bytes2(hex"0102")));
        assertEq(bytes32(platform.fmspc), bytes32(bytes6(hex"a1a2a3a4a5a6")));
        platform = read(membersWith(versionsWith(5, svn(5, Asn1.integer(255)))));
        assertEq(bytes32(platform.components), bytes32(bytes16(hex"01020304ff060708090a0b0c0d0e0f10")));
        platform = read(membersWith(versionsWith(17, svn(17, Asn1.integer(0xffff)))));
        assertEq(platform.pceSvn, 0xffff);
    }

    function test_platform_onlyOfAPckCertificate() public view {
        Tbs memory tbs = certificate(ROOT, TCB_SIGNER, 1, false);
        tbs.extensions = bytes.concat(tbs.extensions, sgxExtension(platformMembers()));
        refusedPck(tbs, Certificates.CertificateRole.selector);
        reader.pck(written(pckCertificate(7)));
    }

    function test_platform_refusesACertificateWithoutTheExtension() public view {
        refusedPck(certificate(PLATFORM_CA, PCK, 7, false), DER);
    }

    function test_platform_eachMemberOnce() public view {
        bytes memory tcb = member(2, Asn1.sequence(versions()));
        bytes memory pce = pceId(hex"0000");
        bytes memory family = fmspc(hex"00a55a700000");
        read(bytes.concat(family, pce, tcb));
        refusedPck(pckWith(bytes.concat(pce, family)), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, family)), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, pce)), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, pce, family, pce)), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, pce, family, family)), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, tcb, pce, family)), MALFORMED);
    }

    /// @dev Members of the same number under another arc, and other members of this one, say nothing of the platform.
    function test_platform_othersAreNotTakenForMembers() public view {
        bytes memory members = membersWith(versionsWith(0, ""));
        bytes memory foreign =
            Asn1.sequence(bytes.concat(hex"060a2a864886f84d010d0203", Asn1.element(0x04, hex"ffff")));
        Platform memory platform = read(bytes.concat(foreign, members, member(5, hex"0a0101"), member(1, hex"0a0101")));
        assertEq(bytes32(platform.pceId), bytes32(bytes2(hex"0102")));
        refusedPck(
            pckWith(bytes.concat(member(2, Asn1.sequence(versions())), fmspc(hex"a1a2a3a4a5a6"), foreign)), MALFORMED
        );
        read(bytes.concat(members, member(5, hex"0a0101"), member(5, hex"0a0101"), member(1, ""), member(1, "")));
        read(bytes.concat(members, member(0, ""), member(0, ""), member(8, ""), member(8, "")));
    }

    function test_platform_refusesLengthsOfAnotherSize() public view {
        bytes memory tcb = member(2, Asn1.sequence(versions()));
        bytes memory pce = pceId(hex"0000");
        bytes memory family = fmspc(hex"00a55a700000");
        refusedPck(pckWith(bytes.concat(tcb, pceId(hex"00"), family)), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, pceId(hex"000000"), family)), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, pce, fmspc(hex"00a55a7000"))), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, pce, fmspc(hex"00a55a70000000"))), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, member(3, hex"040200000500"), family)), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, pce, member(4, hex"040600a55a7000000500"))), MALFORMED);
        refusedPck(pckWith(bytes.concat(tcb, pce, member(4, hex"020600a55a700000"))), DER);
    }

    function test_platform_refusesAnythingAfterwards() public view {
        bytes memory members = platformMembers();
        Tbs memory tbs = certificate(PLATFORM_CA, PCK, 7, false);
        bytes memory id = hex"06092a864886f84d010d01";
        tbs.extensions = Asn1.extension(id, "", bytes.concat(Asn1.sequence(members), hex"0500"));
        refusedPck(tbs, MALFORMED);
        bytes memory tcb = member(2, bytes.concat(Asn1.sequence(versions()), hex"0500"));
        refusedPck(pckWith(bytes.concat(tcb, pceId(hex"0000"), fmspc(hex"00a55a700000"))), MALFORMED);
    }

    function test_platform_refusesVersionsWrittenWrongly() public view {
        for (uint8 i = 1; i < 18; i++) {
            refusedVersion(i, "");
            refusedVersion(i, svn(i + 1, Asn1.integer(5)));
            refusedVersion(i, svn(i, hex"020185"));
            refusedVersion(i, svn(i, hex"02020005"));
            refusedVersion(i, svn(i, hex"0200"));
            refusedVersion(i, svn(i, hex"040105"));
            refusedVersion(i, svn(i, hex"020400010000"));
            refusedVersion(i, Asn1.sequence(abi.encodePacked(hex"060b2a864886f84d010d0103", i, hex"020105")));
            refusedVersion(i, svn(i, hex"0201050500"));
        }
        for (uint8 i = 1; i < 17; i++) refusedVersion(i, svn(i, Asn1.integer(256)));
        refusedVersion(17, svn(17, Asn1.integer(0x10000)));
        refusedVersion(17, svn(17, hex"02030000ff"));
    }

    /// @dev The last version stands past the end of the list it should be in, in the member after it.
    function test_platform_refusesAListThatEndsBeforeItsVersions() public view {
        bytes memory list;
        for (uint8 i = 1; i < 17; i++) list = bytes.concat(list, svn(i, Asn1.integer(1)));
        bytes memory members = bytes.concat(
            pceId(hex"0000"), fmspc(hex"00a55a700000"), member(2, Asn1.sequence(list)), svn(17, Asn1.integer(13))
        );
        refusedPck(pckWith(members), MALFORMED);
    }
}
