// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Certificate, Certificates, Role} from "./Certificates.sol";
import {Crl, Crls} from "./Crls.sol";
import {PackedText} from "./PackedText.sol";
import {PckExtension, Platform} from "./PckExtension.sol";
import {TcbText, TcbTexts} from "./TcbTexts.sol";

/// @notice Reads what vendors sign: certificates, revocation lists, TCB texts. Keeps nothing and verifies no signature.
/// @dev Stands apart because one contract's code may not hold reading and judging both (EIP-170).
contract AttestationReader {
    /// @notice Reads a certificate and the role its subject and powers give it.
    function certificate(bytes calldata tbs) external pure returns (Certificate memory c) {
        (c,) = Certificates.parse(tbs);
    }

    /// @notice Reads a PCK certificate and what it says of its platform.
    function pck(bytes calldata tbs) external pure returns (Certificate memory c, Platform memory platform) {
        bytes calldata sgx;
        (c, sgx) = Certificates.parse(tbs);
        require(c.role == Role.Pck, Certificates.CertificateRole());
        platform = PckExtension.read(sgx);
    }

    /// @notice Unpacks bytes of any kind (see `PackedText`) and gives their SHA-256.
    function unpack(bytes calldata packed) external view returns (bytes memory whole, bytes32 digest) {
        whole = PackedText.unpack(packed);
        digest = sha256Of(whole);
    }

    /// @notice Reads a revocation list, and the serial numbers of the entries that begin at these offsets, ascending.
    function crl(bytes calldata tbs, uint256[] calldata offsets)
        external
        pure
        returns (Crl memory list, uint256[] memory serials)
    {
        bytes calldata entries;
        (list, entries) = Crls.parse(tbs);
        serials = new uint256[](offsets.length);
        for (uint256 i = 0; i < offsets.length; i++) {
            (serials[i], entries) = Crls.serialAt(tbs, entries, offsets[i]);
        }
    }

    /// @notice Unpacks TCB info (see `PackedText`), and gives the SHA-256 of the text and its table (see `TcbTexts`).
    function tcbInfo(bytes calldata packed) external view returns (bytes32 digest, TcbText memory info, bytes memory table) {
        bytes memory text = PackedText.unpack(packed);
        digest = sha256Of(text);
        (info, table) = TcbTexts.tcbInfo(text);
    }

    /// @notice Unpacks an identity of the quoting enclave, likewise.
    function qeIdentity(bytes calldata packed) external view returns (bytes32 digest, TcbText memory info, bytes memory table) {
        bytes memory text = PackedText.unpack(packed);
        digest = sha256Of(text);
        (info, table) = TcbTexts.qeIdentity(text);
    }

    /// @dev The compiler's own copies the text before it asks the precompile, for 930 gas of a text of 4,113 bytes.
    function sha256Of(bytes memory text) private view returns (bytes32 digest) {
        assembly ("memory-safe") {
            if iszero(staticcall(gas(), 2, add(text, 0x20), mload(text), 0, 0x20)) { revert(0, 0) }
            digest := mload(0)
        }
    }
}
