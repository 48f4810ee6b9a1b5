// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Der} from "./Der.sol";

/// @notice Names what a certificate may vouch for.
enum Role {
    None,
    Root,
    PckCa,
    TcbSigner,
    Pck
}

/// @notice Holds what a chain of P-256 certificates needs of one of them; names as Keccak-256 of their DER, times in unix seconds.
struct Certificate {
    uint256 serial;
    bytes32 issuer;
    bytes32 subject;
    uint256 notBefore;
    uint256 notAfter;
    bytes32 x;
    bytes32 y;
    Role role;
}

/// @notice Reads the signed part of X.509 certificates (RFC 5280 section 4.1) strictly.
library Certificates {
    error MalformedCertificate();
    error CertificateRole();

    uint256 private constant CA = 1;
    uint256 private constant SIGNS_CERTIFICATES = 2;
    uint256 private constant SIGNS_CRLS = 4;
    uint256 private constant COMMON_NAME = 0x550403;
    uint256 private constant KEY_USAGE = 0x551d0f;
    uint256 private constant BASIC_CONSTRAINTS = 0x551d13;
    uint256 private constant SGX = 0x2a864886f84d010d01;
    bytes10 private constant ECDSA_SHA256 = 0x06082a8648ce3d040302;

    /// @notice Reads a certificate; also gives Intel's extension, which is empty where there is none.
    function parse(bytes calldata tbs) internal pure returns (Certificate memory c, bytes calldata sgx) {
        (bytes calldata rest, bytes calldata part) = Der.take(tbs, Der.SEQUENCE);
        require(part.length == 0, MalformedCertificate());
        (part, rest) = Der.take(rest, 0xa0);
        require(Der.equals(part, 0x020102, 3), MalformedCertificate());
        (c.serial, rest) = Der.number(rest, 20);
        rest = algorithm(rest);
        (part, rest) = Der.whole(rest, Der.SEQUENCE);
        c.issuer = keccak256(part);
        (part, rest) = Der.take(rest, Der.SEQUENCE);
        (c.notBefore, part) = Der.time(part);
        (c.notAfter, part) = Der.time(part);
        require(part.length == 0, MalformedCertificate());
        bytes calldata subject;
        (subject, rest) = Der.whole(rest, Der.SEQUENCE);
        c.subject = keccak256(subject);
        rest = key(c, rest);
        (part, rest) = Der.take(rest, 0xa3);
        require(rest.length == 0, MalformedCertificate());
        uint256 powers;
        (powers, sgx) = extensions(part);
        c.role = roleOf(subject, powers);
    }

    /// @dev The role matters: without it, a key taken out of any one machine could sign collateral for all of them.
    function roleOf(bytes calldata name, uint256 powers) private pure returns (Role) {
        (bytes calldata subject,) = Der.take(name, Der.SEQUENCE);
        if (hasRole(subject, "SGX PCK Certificate", 19) || hasRole(subject, "SGX TCB Signing", 15)) {
            require(powers & CA == 0, CertificateRole());
            return hasRole(subject, "SGX TCB Signing", 15) ? Role.TcbSigner : Role.Pck;
        }
        require(
            hasRole(subject, "SGX PCK Platform CA", 19) || hasRole(subject, "SGX PCK Processor CA", 20), CertificateRole()
        );
        require(powers == CA | SIGNS_CERTIFICATES | SIGNS_CRLS, CertificateRole());
        return Role.PckCa;
    }

    /// @notice Takes the algorithm identifier of ECDSA with SHA-256 (RFC 5758 section 3.2).
    function algorithm(bytes calldata der) internal pure returns (bytes calldata rest) {
        bytes calldata part;
        (part, rest) = Der.take(der, Der.SEQUENCE);
        require(part.length == 10 && bytes10(part) == ECDSA_SHA256, MalformedCertificate());
    }

    /// @dev Tells whether a subject's one common name ends in a role.
    function hasRole(bytes calldata subject, bytes32 role, uint256 size) private pure returns (bool found) {
        while (subject.length > 0) {
            bytes calldata set;
            (set, subject) = Der.take(subject, Der.SET);
            while (set.length > 0) {
                bytes calldata attribute;
                (attribute, set) = Der.take(set, Der.SEQUENCE);
                (bytes calldata id, bytes calldata value) = Der.take(attribute, Der.OID);
                if (!Der.equals(id, COMMON_NAME, 3)) continue;
                require(!found, MalformedCertificate());
                // The value is a tag, a length and the text; the text ends where the value ends.
                if (value.length < size + 2 || bytes32(value[value.length - size:]) != role) return false;
                found = true;
            }
        }
    }

    /// @dev Subject public key: id-ecPublicKey on prime256v1, uncompressed (RFC 5480 section 2).
    function key(Certificate memory c, bytes calldata der) private pure returns (bytes calldata rest) {
        bytes calldata part;
        (part, rest) = Der.take(der, Der.SEQUENCE);
        require(
            part.length == 89 && bytes25(part) == hex"301306072a8648ce3d020106082a8648ce3d03010703420004",
            MalformedCertificate()
        );
        c.x = bytes32(part[25:57]);
        c.y = bytes32(part[57:89]);
    }

    /// @dev RFC 5280 section 4.2: no extension that is known here twice, and none that is critical and unknown.
    function extensions(bytes calldata der) private pure returns (uint256 powers, bytes calldata sgx) {
        (bytes calldata list, bytes calldata value) = Der.take(der, Der.SEQUENCE);
        require(value.length == 0, MalformedCertificate());
        sgx = value;
        uint256 seen;
        while (list.length > 0) {
            bytes calldata id;
            (id, list) = Der.take(list, Der.SEQUENCE);
            (id, value) = Der.take(id, Der.OID);
            bool critical;
            (critical, value) = extensionValue(value);
            uint256 known;
            if (Der.equals(id, BASIC_CONSTRAINTS, 3)) {
                known = 1;
                powers |= basicConstraints(value);
            } else if (Der.equals(id, KEY_USAGE, 3)) {
                known = 2;
                powers |= keyUsage(value);
            } else if (Der.equals(id, SGX, 9)) {
                known = 4;
                sgx = value;
            }
            require(known == 0 ? !critical : seen & known == 0, MalformedCertificate());
            seen |= known;
        }
    }

    function extensionValue(bytes calldata der) private pure returns (bool critical, bytes calldata value) {
        critical = Der.next(der, 0x01);
        value = der;
        if (critical) {
            (der, value) = Der.take(der, 0x01);
            require(Der.equals(der, 0xff, 1), MalformedCertificate());
        }
        (value, der) = Der.take(value, Der.OCTETS);
        require(der.length == 0, MalformedCertificate());
    }

    function basicConstraints(bytes calldata value) private pure returns (uint256) {
        (bytes calldata part, bytes calldata none) = Der.take(value, Der.SEQUENCE);
        require(none.length == 0, MalformedCertificate());
        if (part.length == 0) return 0;
        (value, part) = Der.take(part, 0x01);
        require(Der.equals(value, 0xff, 1), MalformedCertificate());
        if (part.length > 0) (, part) = Der.number(part, 1);
        require(part.length == 0, MalformedCertificate());
        return CA;
    }

    function keyUsage(bytes calldata value) private pure returns (uint256 powers) {
        (bytes calldata bits, bytes calldata none) = Der.take(value, 0x03);
        require(bits.length >= 2 && none.length == 0, MalformedCertificate());
        if (bits[1] & 0x04 != 0) powers |= SIGNS_CERTIFICATES;
        if (bits[1] & 0x02 != 0) powers |= SIGNS_CRLS;
    }
}
