// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Certificate, Role} from "./Certificates.sol";
import {Issuers} from "./Issuers.sol";
import {Platform} from "./PckExtension.sol";

/// @notice Keeps what PCK certificates say of platforms: one slot a platform, because its id commits to the key.
abstract contract Platforms is Issuers {
    /// @notice Names a platform's certificate: who issued it, its serial number and the key it certifies.
    struct PlatformKey {
        bytes32 issuer;
        uint256 serial;
        bytes32 x;
        bytes32 y;
    }

    /// @notice Platforms by their id (see `platformId`).
    mapping(bytes32 platform => Platform) public platforms;

    event PckRegistered(bytes32 indexed platform, bytes32 indexed issuer, uint256 serial, bytes32 x, bytes32 y);
    event PlatformDenied(bytes32 indexed platform);


    /// @notice Names a platform.
    function platformId(PlatformKey calldata key) public pure returns (bytes32) {
        return keccak256(abi.encode(key));
    }

    /// @notice Verifies a PCK certificate and remembers its platform; anyone may, once a platform.
    /// @param tbs the signed part of the certificate, as DER
    /// @param issuer id of the CA that signed it
    function registerPck(bytes calldata tbs, bytes32 r, bytes32 s, bytes32 issuer) external returns (bytes32 id) {
        require(usable(issuer).role == Role.PckCa, CertificateRole());
        checkSigned(tbs, r, s, issuer);
        (Certificate memory c, Platform memory platform) = reader.pck(tbs);
        checkIssued(c, issuer);
        id = keccak256(abi.encode(issuer, c.serial, c.x, c.y));
        platform.notAfter = uint40(c.notAfter);
        platform.denied = platforms[id].denied;
        platforms[id] = platform;
        emit PckRegistered(id, issuer, c.serial, c.x, c.y);
    }

    /// @notice Stops a platform whose keys are known to have leaked from registering again.
    function denyPlatform(bytes32 id) external onlyOwner {
        platforms[id].denied = true;
        emit PlatformDenied(id);
    }
}
