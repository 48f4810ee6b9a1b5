// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Certificates} from "./Certificates.sol";
import {Der} from "./Der.sol";

/// @notice Holds what a certificate revocation list says of itself; the issuer's name as Keccak-256 of its DER, times in unix seconds.
struct Crl {
    bytes32 issuer;
    uint256 thisUpdate;
    uint256 nextUpdate;
    uint256 number;
}

/// @notice Reads the signed part of certificate revocation lists (RFC 5280 section 5.1).
library Crls {
    error MalformedCrl();
    error NotInCrl(uint256 offset);

    uint256 private constant CRL_NUMBER = 0x551d14;
    uint256 private constant AUTHORITY_KEY = 0x551d23;

    /// @notice Reads a list; also gives the content of its entries, empty where nothing is revoked.
    function parse(bytes calldata tbs) internal pure returns (Crl memory crl, bytes calldata entries) {
        (bytes calldata rest, bytes calldata part) = Der.take(tbs, Der.SEQUENCE);
        require(part.length == 0, MalformedCrl());
        entries = part;
        uint256 version;
        (version, rest) = Der.number(rest, 1);
        require(version == 1, MalformedCrl());
        rest = Certificates.algorithm(rest);
        (part, rest) = Der.whole(rest, Der.SEQUENCE);
        crl.issuer = keccak256(part);
        (crl.thisUpdate, rest) = Der.time(rest);
        (crl.nextUpdate, rest) = Der.time(rest);
        if (Der.next(rest, Der.SEQUENCE)) (entries, rest) = Der.take(rest, Der.SEQUENCE);
        (part, rest) = Der.take(rest, 0xa0);
        require(rest.length == 0, MalformedCrl());
        crl.number = numberOf(part);
    }

    /// @notice Takes entries up to the one at an offset of the list, and reads the serial number it revokes.
    /// @dev Walks from the first entry, so that no bytes inside another entry can pass for one.
    function serialAt(bytes calldata tbs, bytes calldata entries, uint256 offset)
        internal
        pure
        returns (uint256 serial, bytes calldata rest)
    {
        uint256 position;
        bytes calldata entry;
        rest = entries;
        do {
            assembly ("memory-safe") {
                position := sub(rest.offset, tbs.offset)
            }
            require(rest.length > 0 && position <= offset, NotInCrl(offset));
            (entry, rest) = Der.take(rest, Der.SEQUENCE);
        } while (position < offset);
        (serial,) = Der.number(entry, 20);
    }

    /// @dev A list must have a number and name its key; no extension of it may be critical and unknown.
    function numberOf(bytes calldata der) private pure returns (uint256 number) {
        (bytes calldata list, bytes calldata value) = Der.take(der, Der.SEQUENCE);
        require(value.length == 0, MalformedCrl());
        uint256 seen;
        while (list.length > 0) {
            bytes calldata id;
            (id, list) = Der.take(list, Der.SEQUENCE);
            (id, value) = Der.take(id, Der.OID);
            (value,) = Der.take(value, Der.OCTETS);
            uint256 known = Der.equals(id, CRL_NUMBER, 3) ? 1 : Der.equals(id, AUTHORITY_KEY, 3) ? 2 : 0;
            require(seen & known == 0, MalformedCrl());
            seen |= known;
            if (known == 1) (number,) = Der.number(value, 14);
        }
        require(seen == 3, MalformedCrl());
    }
}
