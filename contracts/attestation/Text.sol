// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Time} from "./Time.sol";

/// @notice Compares signed JSON in memory with its template and reads the values between.
/// @dev Positions are places in memory. A reader must end by comparing its position with the text's end: every step moves on by what it
///      has read, so reaching exactly the end proves that nothing beyond it was read.
library Text {
    error UnexpectedText();

    /// @notice Gives the places between which a text lies.
    function bounds(bytes memory text) internal pure returns (uint256 start, uint256 end) {
        assembly ("memory-safe") {
            start := add(text, 0x20)
            end := add(start, mload(text))
        }
    }

    /// @notice Reads the word at a position.
    function word(uint256 position) internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := mload(position)
        }
    }

    /// @notice Tells whether a literal of up to 32 bytes stands here.
    function has(uint256 position, bytes32 literal, uint256 size) internal pure returns (bool) {
        unchecked {
            uint256 shift = 256 - 8 * size;
            return word(position) >> shift == uint256(literal) >> shift;
        }
    }

    /// @notice Moves over a literal of up to 32 bytes.
    function expect(uint256 position, bytes32 literal, uint256 size) internal pure returns (uint256) {
        unchecked {
            require(has(position, literal, size), UnexpectedText());
            return position + size;
        }
    }

    /// @notice Moves over a longer literal, given by its Keccak-256.
    function expectHash(uint256 position, bytes32 hash, uint256 size) internal pure returns (uint256) {
        bytes32 found;
        assembly ("memory-safe") {
            found := keccak256(position, size)
        }
        require(found == hash, UnexpectedText());
        return position + size;
    }

    /// @notice Reads single digits out of a text that is known but for them, and tells whether it is that text.
    /// @param form the Keccak-256 of the text with a zero at each of the digits
    /// @param gaps a byte for each digit: how far it stands from the one before, and the first from the start
    function digits(uint256 position, uint256 size, bytes32 form, bytes32 gaps)
        internal
        pure
        returns (bool known, uint256 values)
    {
        assembly ("memory-safe") {
            let copy := mload(0x40)
            mcopy(copy, position, size)
            let at := copy
            for {} gaps { gaps := shl(8, gaps) } {
                at := add(at, byte(0, gaps))
                let digit := sub(byte(0, mload(at)), 0x30)
                known := or(known, gt(digit, 9))
                values := or(shl(8, values), digit)
                mstore8(at, 0x30)
            }
            known := gt(eq(keccak256(copy, size), form), known)
        }
    }

    /// @notice Moves over a decimal number without leading zeros, up to 65,535.
    function number(uint256 position) internal pure returns (uint256 value, uint256 next) {
        unchecked {
            uint256 text = word(position);
            uint256 size;
            while (size < 6) {
                uint256 digit = (text >> (248 - 8 * size)) & 0xff;
                digit -= 48;
                if (digit > 9) break;
                value = value * 10 + digit;
                size++;
            }
            require(size > 0 && value <= 0xffff && (size == 1 || text >> 248 != 48), UnexpectedText());
            next = position + size;
        }
    }

    /// @notice Moves over hexadecimal digits, two a byte, of up to 32 bytes, either case.
    function hexadecimal(uint256 position, uint256 size) internal pure returns (uint256 value, uint256 next) {
        unchecked {
            next = position + 2 * size;
            for (; position < next; position++) {
                uint256 digit = (word(position) >> 248) - 48;
                if (digit > 9) {
                    // Lower case, then counted from 'a'.
                    digit = ((digit + 48) | 0x20) - 97;
                    require(digit < 6, UnexpectedText());
                    digit += 10;
                }
                value = (value << 4) | digit;
            }
        }
    }

    /// @notice Moves over a UTC time as `2026-01-31T23:59:59Z`, read as unix seconds.
    function time(uint256 position) internal pure returns (uint256 unix, uint256 next) {
        unchecked {
            uint256 text = word(position);
            require(
                text & (0xff << 216 | 0xff << 192 | 0xff << 168 | 0xff << 144 | 0xff << 120 | 0xff << 96)
                    == (0x2d << 216 | 0x2d << 192 | 0x54 << 168 | 0x3a << 144 | 0x3a << 120 | 0x5a << 96),
                UnexpectedText()
            );
            unix = Time.unixOf(Time.digits(text, 0) * 100 + Time.digits(text, 2), text, 5, 3);
            next = position + 20;
        }
    }

    /// @notice Finds the first of a character from a position on, and refuses where there is none before `end`.
    function find(uint256 position, uint256 end, uint256 character) internal pure returns (uint256) {
        unchecked {
            uint256 low = 0x7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f;
            uint256 pattern = character * 0x0101010101010101010101010101010101010101010101010101010101010101;
            for (; position < end; position += 32) {
                uint256 text = word(position) ^ pattern;
                // The top bit of each byte that is zero, without carries between bytes.
                uint256 zeros = ~(((text & low) + low) | text | low);
                if (zeros == 0) continue;
                assembly ("memory-safe") {
                    position := add(position, shr(3, clz(zeros)))
                }
                break;
            }
            require(position < end, UnexpectedText());
            return position;
        }
    }
}
