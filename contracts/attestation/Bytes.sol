// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Reads words of calldata whose length was checked once, without checking it again at every read.
library Bytes {
    /// @notice Reads the 32 bytes from `offset` on; past the end of `data` they are whatever follows in the call.
    function word(bytes calldata data, uint256 offset) internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := calldataload(add(data.offset, offset))
        }
    }

    /// @notice Drops the first bytes; the caller knows that there are as many.
    function from(bytes calldata data, uint256 offset) internal pure returns (bytes calldata rest) {
        assembly ("memory-safe") {
            rest.offset := add(data.offset, offset)
            rest.length := sub(data.length, offset)
        }
    }
}
