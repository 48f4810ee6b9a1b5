// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Appends to a table of bytes in memory, whose room is set aside beforehand.
library Tables {
    error TableTooLong();

    uint256 private constant ROOM = 1024;

    struct Table {
        bytes data;
        uint256 size;
    }

    /// @notice Makes an empty table.
    function create() internal pure returns (Table memory table) {
        table.data = new bytes(ROOM + 32);
    }

    /// @notice Appends the lowest `size` bytes of a value.
    function append(Table memory table, uint256 value, uint256 size) internal pure {
        unchecked {
            uint256 end = table.size;
            require(end + size <= ROOM, TableTooLong());
            bytes memory data = table.data;
            assembly ("memory-safe") {
                mstore(add(add(data, 0x20), end), shl(sub(256, mul(8, size)), value))
            }
            table.size = end + size;
        }
    }

    /// @notice Overwrites one byte.
    function setByte(Table memory table, uint256 offset, uint256 value) internal pure {
        table.data[offset] = bytes1(uint8(value));
    }

    /// @notice Cuts a table to what was appended.
    function finish(Table memory table) internal pure returns (bytes memory data) {
        data = table.data;
        uint256 size = table.size;
        assembly ("memory-safe") {
            mstore(data, size)
        }
    }

    /// @notice Reads `size` bytes of a finished table.
    function read(bytes memory table, uint256 offset, uint256 size) internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := shr(sub(256, mul(8, size)), mload(add(add(table, 0x20), offset)))
        }
    }
}
