// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Writes steps for `PackedText`, as a poster might.
library Packing {
    /// @notice Writes one step: its literal bytes, of which there may be 31, then what it repeats.
    function step(bytes memory literal, uint256 source, uint256 size) internal pure returns (bytes memory) {
        return abi.encodePacked(uint32(literal.length << 27 | size << 16 | source), literal);
    }

    /// @notice Packs a text without repeating anything.
    function literally(bytes memory text) internal pure returns (bytes memory packed) {
        for (uint256 p = 0; p < text.length; p += 31) {
            bytes memory literal = new bytes(text.length - p < 31 ? text.length - p : 31);
            for (uint256 i = 0; i < literal.length; i++) literal[i] = text[p + i];
            packed = abi.encodePacked(packed, step(literal, 0, 0));
        }
    }
}
