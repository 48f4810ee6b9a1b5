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
    // Object identifiers with their tag and length.
    uint256 private constant COMMON_NAME = 0x0603550403;
    uint256 private constant KEY_USAGE = 0x0603551d0f;
    uint256 private constant BASIC_CONSTRAINTS = 0x0603551d13;
    uint256 private constant SGX = 0x06092a864886f84d010d01;

    /// @notice Reads a certificate; also gives Intel's extension, which is empty where there is none.
    function parse(bytes calldata tbs) internal pure returns (Certificate memory c, bytes calldata sgx) {
        (bytes calldata rest, bytes calldata part) = Der.take(tbs, Der.SEQUENCE);
        require(part.length == 0, MalformedCertificate());
        rest = Der.expect(rest, 0xa003020102, 5); // version 3
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
    function roleOf(bytes calldata subject, uint256 powers) private pure returns (Role) {
        bytes calldata name = commonName(subject);
        if (endsWith(name, "SGX PCK Certificate", 19)) {
            require(powers & CA == 0, CertificateRole());
            return Role.Pck;
        }
        if (endsWith(name, "SGX TCB Signing", 15)) {
            require(powers & CA == 0, CertificateRole());
            return Role.TcbSigner;
        }
        require(endsWith(name, "SGX PCK Platform CA", 19) || endsWith(name, "SGX PCK Processor CA", 20), CertificateRole());
        require(powers == CA | SIGNS_CERTIFICATES | SIGNS_CRLS, CertificateRole());
        return Role.PckCa;
    }

    /// @dev The one common name of a distinguished name (RFC 5280 section 4.1.2.4), empty where there is none. Each of the vendor's relative
    ///      names has one attribute; a name with more is refused.
    function commonName(bytes calldata der) private pure returns (bytes calldata name) {
        bytes calldata sets;
        (sets, name) = Der.take(der, Der.SEQUENCE);
        bool found;
        while (sets.length > 0) {
            bytes calldata set;
            (set, sets) = Der.take(sets, Der.SET);
            uint256 head = Der.first(set);
            require(head >> 248 == Der.SEQUENCE && ((head >> 240) & 0xff) + 2 == set.length, MalformedCertificate());
            if ((head >> 200) & 0xffffffffff != COMMON_NAME) continue;
            require(!found, MalformedCertificate());
            found = true;
            // The text itself, whichever kind of string it is.
            (name, set) = Der.take(set[7:], (head >> 192) & 0xff);
            require(set.length == 0, MalformedCertificate());
        }
    }

    function endsWith(bytes calldata text, bytes32 ending, uint256 size) private pure returns (bool same) {
        if (text.length < size) return false;
        assembly ("memory-safe") {
            let shift := sub(256, mul(8, size))
            same := eq(shr(shift, calldataload(sub(add(text.offset, text.length), size))), shr(shift, ending))
        }
    }

    /// @notice Takes the algorithm identifier of ECDSA with SHA-256 (RFC 5758 section 3.2).
    function algorithm(bytes calldata der) internal pure returns (bytes calldata rest) {
        return Der.expect(der, 0x300a06082a8648ce3d040302, 12);
    }

    /// @dev Subject public key: id-ecPublicKey on prime256v1, uncompressed (RFC 5480 section 2).
    function key(Certificate memory c, bytes calldata der) private pure returns (bytes calldata rest) {
        rest = Der.expect(der, 0x3059301306072a8648ce3d020106082a8648ce3d03010703420004, 27);
        require(rest.length >= 64, MalformedCertificate());
        c.x = bytes32(rest[0:32]);
        c.y = bytes32(rest[32:64]);
        rest = rest[64:];
    }

    /// @dev RFC 5280 section 4.2: no extension that is known here twice, and none that is critical and unknown.
    function extensions(bytes calldata der) private pure returns (uint256 powers, bytes calldata sgx) {
        bytes calldata list;
        (list, sgx) = Der.take(der, Der.SEQUENCE);
        require(sgx.length == 0, MalformedCertificate());
        uint256 seen;
        while (list.length > 0) {
            bytes calldata entry;
            (entry, list) = Der.take(list, Der.SEQUENCE);
            uint256 head = Der.first(entry);
            uint256 known;
            if (head >> 216 == BASIC_CONSTRAINTS) {
                known = 1;
                powers |= basicConstraints(extensionValue(entry[5:], true));
            } else if (head >> 216 == KEY_USAGE) {
                known = 2;
                powers |= keyUsage(extensionValue(entry[5:], true));
            } else if (head >> 168 == SGX) {
                known = 4;
                sgx = extensionValue(entry[11:], false);
            } else {
                (, entry) = Der.take(entry, Der.OID);
                extensionValue(entry, false);
            }
            require(seen & known == 0, MalformedCertificate());
            seen |= known;
        }
    }

    function extensionValue(bytes calldata der, bool mayBeCritical) private pure returns (bytes calldata value) {
        if (mayBeCritical && Der.next(der, 0x01)) der = Der.expect(der, 0x0101ff, 3);
        (value, der) = Der.take(der, Der.OCTETS);
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
