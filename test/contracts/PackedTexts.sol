// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {PackedText} from "../../contracts/attestation/PackedText.sol";

/// @dev Gives the library an outside.
contract PackedTexts {
    function unpack(bytes calldata packed) external pure returns (bytes memory) {
        return PackedText.unpack(packed);
    }
}
