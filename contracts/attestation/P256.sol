// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Verifies P-256 signatures with the chain's precompile (EIP-7951).
library P256 {
    /// @notice Tells whether r and s sign a hash under a key.
    /// @dev An absent precompile answers nothing, which counts as invalid. Intel does not normalise s, so high values pass.
    function verify(bytes32 hash, bytes32 r, bytes32 s, bytes32 x, bytes32 y) internal view returns (bool valid) {
        assembly ("memory-safe") {
            let input := mload(0x40)
            mstore(input, hash)
            mstore(add(input, 0x20), r)
            mstore(add(input, 0x40), s)
            mstore(add(input, 0x60), x)
            mstore(add(input, 0x80), y)
            // Yul evaluates from the right: the answer must be read after the call, so it is not an argument beside it.
            mstore(0, 0)
            let answered := staticcall(gas(), 0x100, input, 0xa0, 0, 0x20)
            valid := and(eq(returndatasize(), 0x20), and(answered, eq(mload(0), 1)))
        }
    }
}
