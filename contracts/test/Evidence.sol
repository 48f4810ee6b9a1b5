// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "./Test.sol";

/// @dev Writes DER (X.690), well or wrong as its caller asks.
library Asn1 {
    bytes internal constant ECDSA_SHA256 = hex"300a06082a8648ce3d040302";

    function element(uint8 tag, bytes memory content) internal pure returns (bytes memory) {
        if (content.length < 0x80) return abi.encodePacked(tag, uint8(content.length), content);
        if (content.length < 0x100) return abi.encodePacked(tag, bytes1(0x81), uint8(content.length), content);
        return abi.encodePacked(tag, bytes1(0x82), uint16(content.length), content);
    }

    function sequence(bytes memory content) internal pure returns (bytes memory) {
        return element(0x30, content);
    }

    /// @dev A common name, alone, as UTF8String.
    function name(string memory text) internal pure returns (bytes memory) {
        return sequence(attribute(hex"0603550403", text));
    }

    function attribute(bytes memory id, string memory text) internal pure returns (bytes memory) {
        return element(0x31, sequence(bytes.concat(id, element(0x0c, bytes(text)))));
    }

    /// @dev A number that is not negative, in its shortest form.
    function integer(uint256 value) internal pure returns (bytes memory) {
        bytes memory digits;
        do {
            digits = bytes.concat(bytes1(uint8(value)), digits);
            value >>= 8;
        } while (value > 0);
        return element(0x02, uint8(digits[0]) < 0x80 ? digits : bytes.concat(bytes1(0), digits));
    }

    /// @dev A UTCTime.
    function time(string memory text) internal pure returns (bytes memory) {
        return element(0x17, bytes(text));
    }

    function extension(bytes memory id, bytes memory flag, bytes memory value) internal pure returns (bytes memory) {
        return sequence(bytes.concat(id, flag, element(0x04, value)));
    }
}

/// @dev Issues what a vendor issues, under a root of its own, from keys that are plainly test keys; any part can be changed before it is signed.
abstract contract Evidence is Test {
    using Asn1 for bytes;

    /// @dev 2026-06-01T00:00:00Z.
    uint256 internal constant NOW = 1_780_272_000;
    bytes internal constant CRITICAL = hex"0101ff";
    bytes internal constant KEY_USAGE = hex"0603551d0f";
    bytes internal constant BASIC_CONSTRAINTS = hex"0603551d13";
    bytes internal constant SGX = hex"060a2a864886f84d010d01";
    string internal constant ROOT = "Test SGX Root CA";
    string internal constant PLATFORM_CA = "Test SGX PCK Platform CA";
    string internal constant TCB_SIGNER = "Test SGX TCB Signing";
    string internal constant PCK = "Test SGX PCK Certificate";

    /// @dev The parts of a certificate's signed half, each an element, in their order.
    struct Tbs {
        bytes version;
        bytes serial;
        bytes algorithm;
        bytes issuer;
        bytes validity;
        bytes subject;
        bytes key;
        bytes extensions;
        bytes tail;
    }

    /// @dev The parts of a revocation list's.
    struct TbsList {
        bytes version;
        bytes algorithm;
        bytes issuer;
        bytes thisUpdate;
        bytes nextUpdate;
        bytes entries;
        bytes extensions;
        bytes tail;
    }

    function secret(string memory name) internal pure returns (uint256) {
        return uint256(keccak256(bytes(string.concat("assay test key ", name)))) >> 1;
    }

    function publicKey(string memory name) internal pure returns (bytes32 x, bytes32 y) {
        (uint256 x_, uint256 y_) = vm.publicKeyP256(secret(name));
        return (bytes32(x_), bytes32(y_));
    }

    function signP256(string memory name, bytes memory message) internal pure returns (bytes32 r, bytes32 s) {
        return vm.signP256(secret(name), sha256(message));
    }

    function nameHash(string memory name) internal pure returns (bytes32) {
        return keccak256(Asn1.name(name));
    }

    /// @dev A certificate of the key that bears its subject's name.
    function certificate(string memory issuer, string memory subject, uint256 serial, bool ca)
        internal
        pure
        returns (Tbs memory)
    {
        return Tbs({
            version: hex"a003020102",
            serial: Asn1.integer(serial),
            algorithm: Asn1.ECDSA_SHA256,
            issuer: Asn1.name(issuer),
            validity: Asn1.sequence(bytes.concat(Asn1.time("260101000000Z"), Asn1.time("461231235959Z"))),
            subject: Asn1.name(subject),
            key: keyInfo(subject),
            extensions: ca ? bytes.concat(usage(0x06, 1), constraints(hex"0101ff")) : bytes.concat(usage(0xc0, 6), constraints("")),
            tail: ""
        });
    }

    function keyInfo(string memory name) internal pure returns (bytes memory) {
        (bytes32 x, bytes32 y) = publicKey(name);
        return bytes.concat(hex"3059301306072a8648ce3d020106082a8648ce3d03010703420004", x, y);
    }

    function usage(uint8 bits, uint8 unused) internal pure returns (bytes memory) {
        return Asn1.extension(KEY_USAGE, CRITICAL, abi.encodePacked(hex"0302", unused, bits));
    }

    function constraints(bytes memory content) internal pure returns (bytes memory) {
        return Asn1.extension(BASIC_CONSTRAINTS, CRITICAL, Asn1.sequence(content));
    }

    function written(Tbs memory tbs) internal pure returns (bytes memory) {
        bytes memory head = bytes.concat(tbs.version, tbs.serial, tbs.algorithm, tbs.issuer, tbs.validity);
        return Asn1.sequence(
            bytes.concat(head, tbs.subject, tbs.key, Asn1.element(0xa3, Asn1.sequence(tbs.extensions)), tbs.tail)
        );
    }

    /// @dev One of the numbered members of Intel's extension.
    function member(uint8 index, bytes memory value) internal pure returns (bytes memory) {
        return Asn1.sequence(abi.encodePacked(hex"060a2a864886f84d010d01", index, value));
    }

    /// @dev One security version of a platform; the value is written out, so that it can be written wrongly.
    function svn(uint8 index, bytes memory value) internal pure returns (bytes memory) {
        return Asn1.sequence(abi.encodePacked(hex"060b2a864886f84d010d0102", index, value));
    }

    /// @dev Eight components at 5, eight at 0, PCESVN 13.
    function versions() internal pure returns (bytes memory list) {
        for (uint8 i = 1; i < 17; i++) list = bytes.concat(list, svn(i, Asn1.integer(i < 9 ? 5 : 0)));
        return bytes.concat(list, svn(17, Asn1.integer(13)), svn(18, Asn1.element(0x04, new bytes(16))));
    }

    function platformMembers() internal pure returns (bytes memory) {
        return bytes.concat(
            member(1, Asn1.element(0x04, new bytes(16))),
            member(2, Asn1.sequence(versions())),
            member(3, Asn1.element(0x04, hex"0000")),
            member(4, Asn1.element(0x04, hex"00a55a700000")),
            member(5, hex"0a0101")
        );
    }

    function sgxExtension(bytes memory members) internal pure returns (bytes memory) {
        return Asn1.extension(hex"06092a864886f84d010d01", "", Asn1.sequence(members));
    }

    function pckCertificate(uint256 serial) internal pure returns (Tbs memory tbs) {
        tbs = certificate(PLATFORM_CA, PCK, serial, false);
        tbs.extensions = bytes.concat(tbs.extensions, sgxExtension(platformMembers()));
    }

    /// @dev A list that names no certificate: a number, and the key it is signed with.
    function revocations(string memory issuer, uint256 number) internal pure returns (TbsList memory) {
        return TbsList({
            version: Asn1.integer(1),
            algorithm: Asn1.ECDSA_SHA256,
            issuer: Asn1.name(issuer),
            thisUpdate: Asn1.time("260520000000Z"),
            nextUpdate: Asn1.time("260619000000Z"),
            entries: "",
            extensions: bytes.concat(authorityKey(), listNumber(Asn1.integer(number))),
            tail: ""
        });
    }

    function authorityKey() internal pure returns (bytes memory) {
        return Asn1.extension(hex"0603551d23", "", hex"30028000");
    }

    function listNumber(bytes memory number) internal pure returns (bytes memory) {
        return Asn1.extension(hex"0603551d14", "", number);
    }

    function entry(uint256 serial) internal pure returns (bytes memory) {
        return Asn1.sequence(bytes.concat(Asn1.integer(serial), Asn1.time("260520000000Z")));
    }

    function written(TbsList memory list) internal pure returns (bytes memory) {
        bytes memory head = bytes.concat(list.version, list.algorithm, list.issuer, list.thisUpdate, list.nextUpdate);
        return Asn1.sequence(
            bytes.concat(head, list.entries, Asn1.element(0xa0, Asn1.sequence(list.extensions)), list.tail)
        );
    }
}
