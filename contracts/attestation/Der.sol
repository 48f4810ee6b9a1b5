// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Time} from "./Time.sol";

/// @notice Reads DER (X.690) from calldata; every element ends inside what contains it.
library Der {
    error MalformedDer();

    uint256 internal constant INTEGER = 0x02;
    uint256 internal constant OCTETS = 0x04;
    uint256 internal constant OID = 0x06;
    uint256 internal constant SEQUENCE = 0x30;
    uint256 internal constant SET = 0x31;

    /// @notice Takes one element with this tag; lengths up to 65,535, in their shortest form.
    function take(bytes calldata der, uint256 tag) internal pure returns (bytes calldata content, bytes calldata rest) {
        uint256 head = first(der);
        uint256 start = 2;
        uint256 length = (head >> 240) & 0xff;
        bool shortest = true;
        if (length == 0x81) {
            start = 3;
            length = (head >> 232) & 0xff;
            shortest = length >= 0x80;
        } else if (length >= 0x80) {
            start = 4;
            shortest = length == 0x82;
            length = (head >> 224) & 0xffff;
            shortest = shortest && length >= 0x100;
        }
        // Bytes read past the end of `der` are caught here too: `start` or the length leads outside.
        unchecked {
            require(head >> 248 == tag && shortest && start + length <= der.length, MalformedDer());
        }
        assembly ("memory-safe") {
            content.offset := add(der.offset, start)
            content.length := length
            rest.offset := add(content.offset, length)
            rest.length := sub(der.length, add(start, length))
        }
    }

    /// @notice Takes one element and gives it whole, tag and length included.
    function whole(bytes calldata der, uint256 tag) internal pure returns (bytes calldata element, bytes calldata rest) {
        (, rest) = take(der, tag);
        assembly ("memory-safe") {
            element.offset := der.offset
            element.length := sub(der.length, rest.length)
        }
    }

    /// @notice Tells whether an element with this tag is next.
    function next(bytes calldata der, uint256 tag) internal pure returns (bool) {
        return der.length > 0 && first(der) >> 248 == tag;
    }

    /// @notice Tells whether content is exactly these bytes, given in the low end of a word.
    function equals(bytes calldata content, uint256 expected, uint256 size) internal pure returns (bool) {
        return content.length == size && first(content) >> (256 - 8 * size) == expected;
    }

    /// @notice Takes up to 32 bytes that must be exactly these, given in the low end of a word.
    function expect(bytes calldata der, uint256 expected, uint256 size) internal pure returns (bytes calldata rest) {
        unchecked {
            require(der.length >= size && first(der) >> (256 - 8 * size) == expected, MalformedDer());
        }
        assembly ("memory-safe") {
            rest.offset := add(der.offset, size)
            rest.length := sub(der.length, size)
        }
    }

    /// @notice Takes an INTEGER from 0 to the largest that fits `size` bytes (at most 31).
    function number(bytes calldata der, uint256 size) internal pure returns (uint256 value, bytes calldata rest) {
        bytes calldata content;
        (content, rest) = take(der, INTEGER);
        require(content.length > 0 && content.length <= size + 1, MalformedDer());
        unchecked {
            uint256 bits = 8 * content.length;
            value = first(content) >> (256 - bits);
            // X.690 section 8.3.2: not negative, and the first nine bits are not all zero.
            require(
                value >> (bits - 1) == 0 && (bits == 8 || value >> (bits - 9) != 0) && value >> (8 * size) == 0,
                MalformedDer()
            );
        }
    }

    /// @notice Takes a UTCTime or a GeneralizedTime (RFC 5280 section 4.1.2.5), as unix seconds.
    function time(bytes calldata der) internal pure returns (uint256 unix, bytes calldata rest) {
        bytes calldata text;
        if (next(der, 0x17)) {
            (text, rest) = take(der, 0x17);
            uint256 word = first(text);
            require(text.length == 13 && (word >> 152) & 0xff == 0x5a, MalformedDer());
            uint256 year = Time.digits(word, 0);
            unix = Time.unixOf(year + (year < 50 ? 2000 : 1900), word, 2, 2);
        } else {
            (text, rest) = take(der, 0x18);
            uint256 word = first(text);
            require(text.length == 15 && (word >> 136) & 0xff == 0x5a, MalformedDer());
            unix = Time.unixOf(Time.digits(word, 0) * 100 + Time.digits(word, 2), word, 4, 2);
        }
    }

    /// @notice Reads the word at the start; what lies past the end is whatever follows in the call.
    function first(bytes calldata der) internal pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(der.offset)
        }
    }
}
