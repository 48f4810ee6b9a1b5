// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Certificate, Role} from "./Certificates.sol";
import {Issuers} from "./Issuers.sol";
import {P256} from "./P256.sol";
import {Platform} from "./PckExtension.sol";

/// @notice Keeps what PCK certificates say of platforms: one slot a platform, because its id commits to the key.
abstract contract Platforms is Issuers {
    /// @notice Names a platform by its certificate: who issued it, its serial number and the key certified.
    struct PlatformKey {
        bytes32 issuer;
        uint256 serial;
        bytes32 x;
        bytes32 y;
    }

    uint8 internal constant DENIED = 1;
    uint8 internal constant REVOKED = 2;

    /// @notice Platforms by their id (see `platformId`).
    mapping(bytes32 platform => Platform) public platforms;

    event PckRegistered(bytes32 indexed platform, bytes32 indexed issuer, uint256 serial, bytes32 x, bytes32 y);
    event PlatformStruck(bytes32 indexed platform);
    event PlatformDenied(bytes32 indexed platform);

    error NotRevoked(bytes32 issuer, uint256 serial);


    /// @notice Names a platform.
    function platformId(PlatformKey calldata key) public pure returns (bytes32) {
        return keccak256(abi.encode(key));
    }

    /// @notice Verifies a PCK certificate and remembers its platform; anyone may, once a platform.
    /// @param tbs the signed part of the certificate, as DER
    /// @param x y key of the CA that signed it
    function registerPck(bytes calldata tbs, bytes32 r, bytes32 s, bytes32 x, bytes32 y) external returns (bytes32 id) {
        require(P256.verify(sha256(tbs), r, s, x, y), CertificateNotSigned());
        (Certificate memory c, Platform memory platform) = reader.pck(tbs);
        bytes32 issuer = issuerId(x, y, c.issuer);
        require(usable(issuer).role == Role.PckCa, CertificateRole());
        checkCertificate(c, issuer);
        id = keccak256(abi.encode(issuer, c.serial, c.x, c.y));
        platform.notAfter = uint40(c.notAfter);
        platform.barred = platforms[id].barred;
        platforms[id] = platform;
        emit PckRegistered(id, issuer, c.serial, c.x, c.y);
    }

    /// @notice Ends a platform whose certificate a posted revocation list names; anyone may.
    function strike(PlatformKey calldata key) external {
        require(revokedSerials[serialKey(key.issuer, key.serial)], NotRevoked(key.issuer, key.serial));
        bytes32 id = platformId(key);
        platforms[id].barred |= REVOKED;
        emit PlatformStruck(id);
    }

    /// @notice Stops a platform whose keys are known to have leaked from registering again.
    function denyPlatform(bytes32 id) external onlyOwner {
        platforms[id].barred |= DENIED;
        emit PlatformDenied(id);
    }
}
