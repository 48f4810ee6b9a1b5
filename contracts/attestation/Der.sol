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
        require(head >> 248 == tag, MalformedDer());
        uint256 start = 2;
        uint256 length = (head >> 240) & 0xff;
        if (length == 0x81) {
            start = 3;
            length = (head >> 232) & 0xff;
            require(length >= 0x80, MalformedDer());
        } else if (length == 0x82) {
            start = 4;
            length = (head >> 224) & 0xffff;
            require(length >= 0x100, MalformedDer());
        } else {
            require(length < 0x80, MalformedDer());
        }
        // Bytes read past the end of `der` are caught here: `start` or the length leads outside.
        require(start + length <= der.length, MalformedDer());
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
        element = der[0:der.length - rest.length];
    }

    /// @notice Tells whether an element with this tag is next.
    function next(bytes calldata der, uint256 tag) internal pure returns (bool) {
        return der.length > 0 && first(der) >> 248 == tag;
    }

    /// @notice Tells whether content is exactly these bytes, given in the low end of a word.
    function equals(bytes calldata content, uint256 expected, uint256 size) internal pure returns (bool) {
        return content.length == size && first(content) >> (256 - 8 * size) == expected;
    }

    /// @notice Takes an INTEGER from 0 to the largest that fits `size` bytes (at most 31).
    function number(bytes calldata der, uint256 size) internal pure returns (uint256 value, bytes calldata rest) {
        bytes calldata content;
        (content, rest) = take(der, INTEGER);
        require(content.length > 0 && content.length <= size + 1, MalformedDer());
        value = first(content) >> (256 - 8 * content.length);
        uint256 top = 8 * content.length - 8;
        require(value >> (top + 7) == 0, MalformedDer());
        // X.690 section 8.3.2: the first nine bits are not all alike.
        require(content.length == 1 || value >> (top - 1) != 0, MalformedDer());
        require(value >> (8 * size) == 0, MalformedDer());
    }

    /// @notice Takes a UTCTime or a GeneralizedTime (RFC 5280 section 4.1.2.5), as unix seconds.
    function time(bytes calldata der) internal pure returns (uint256 unix, bytes calldata rest) {
        bytes calldata text;
        uint256 year;
        uint256 position;
        if (next(der, 0x17)) {
            (text, rest) = take(der, 0x17);
            require(text.length == 13, MalformedDer());
            year = digits(text, 0);
            year += year < 50 ? 2000 : 1900;
            position = 2;
        } else {
            (text, rest) = take(der, 0x18);
            require(text.length == 15, MalformedDer());
            year = digits(text, 0) * 100 + digits(text, 2);
            position = 4;
        }
        require(text[text.length - 1] == "Z", MalformedDer());
        uint256[5] memory part;
        for (uint256 i = 0; i < 5; i++) part[i] = digits(text, position + 2 * i);
        require(Time.isMoment(year, part[0], part[1], part[2], part[3], part[4]), MalformedDer());
        unix = Time.unixOf(year, part[0], part[1], part[2], part[3], part[4]);
    }

    function digits(bytes calldata text, uint256 position) private pure returns (uint256) {
        unchecked {
            uint256 tens = uint256(uint8(text[position])) - 48;
            uint256 ones = uint256(uint8(text[position + 1])) - 48;
            require(tens < 10 && ones < 10, MalformedDer());
            return tens * 10 + ones;
        }
    }

    function first(bytes calldata der) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(der.offset)
        }
    }
}
