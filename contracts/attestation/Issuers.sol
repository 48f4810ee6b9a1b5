// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MeasurementPolicy} from "../MeasurementPolicy.sol";
import {AttestationReader} from "./AttestationReader.sol";
import {Certificate, Role} from "./Certificates.sol";
import {Crl} from "./Crls.sol";
import {P256} from "./P256.sol";

/// @notice Keeps the vendor's intermediate keys, each proven by the pinned root, and the revocation lists they sign.
/// @dev Warning: a revocation counts once somebody has posted it. Whether the root's own list is recent is not asked for; those of
///      platform CAs are, unless the policy's owner waives it.
abstract contract Issuers is MeasurementPolicy {
    /// @notice Fills one slot; the key and the name are committed to by the id.
    struct Issuer {
        Role role;
        bool revoked;
        uint40 notAfter;
        uint40 crlThisUpdate;
        uint40 crlNextUpdate; // zero while no list of this issuer was posted
        uint112 crlNumber;
    }

    /// @notice Reads what the vendor signs; made with this contract, so that it can be no other.
    AttestationReader public immutable reader;
    /// @notice Id of the pinned root among the issuers.
    bytes32 public immutable root;
    bytes32 private immutable rootX;
    bytes32 private immutable rootY;
    /// @notice Issuers by their id (see `issuerId`).
    mapping(bytes32 issuer => Issuer) public issuers;
    /// @notice Whether a list of an issuer has named a certificate; keyed by `serialKey`.
    mapping(bytes32 serialKey => bool) public revokedSerials;
    mapping(bytes32 serialKey => bytes32 issuer) private issuerOfSerial;

    event IssuerAdded(bytes32 indexed issuer, Role role, uint40 notAfter);
    event CrlPosted(bytes32 indexed issuer, uint112 number, uint40 nextUpdate);
    event CertificateRevoked(bytes32 indexed issuer, uint256 indexed serial);

    error CertificateNotSigned();
    error CertificateExpired(uint256 notAfter);
    error CertificateNotYetValid(uint256 notBefore);
    error CertificateRole();
    error CertificateIsRevoked(bytes32 issuer, uint256 serial);
    error IssuerUnknown(bytes32 issuer);
    error IssuerMismatch(bytes32 name);
    error IssuerRevoked(bytes32 issuer);
    error CrlNotSigned();
    error CrlNotCurrent(uint256 thisUpdate, uint256 nextUpdate);
    error CrlOlderThanPosted(uint256 number, uint256 thisUpdate);
    error CrlMissing(bytes32 issuer);

    /// @param rootX_ rootY_ P-256 key of the root
    /// @param rootName Keccak-256 of the root's subject, as DER
    constructor(bytes32 rootX_, bytes32 rootY_, bytes32 rootName) {
        reader = new AttestationReader();
        (rootX, rootY) = (rootX_, rootY_);
        root = issuerId(rootX_, rootY_, rootName);
        issuers[root] = Issuer(Role.Root, false, type(uint40).max, 0, 0, 0);
    }

    /// @notice Names an issuer: its key and the Keccak-256 of its name, as DER, so that neither can be taken for another's.
    function issuerId(bytes32 x, bytes32 y, bytes32 name) public pure returns (bytes32) {
        return keccak256(abi.encode(x, y, name));
    }

    /// @notice Names a certificate by who issued it and its serial number.
    function serialKey(bytes32 issuer, uint256 serial) public pure returns (bytes32) {
        return keccak256(abi.encode(issuer, serial));
    }

    /// @notice Adds a CA of PCK certificates or a signer of TCB collateral, which the pinned root has signed; anyone may.
    /// @param tbs the signed part of the certificate, as DER
    function addIssuer(bytes calldata tbs, bytes32 r, bytes32 s) external returns (bytes32 id) {
        require(P256.verify(sha256(tbs), r, s, rootX, rootY), CertificateNotSigned());
        Certificate memory c = reader.certificate(tbs);
        require(issuerId(rootX, rootY, c.issuer) == root, IssuerMismatch(c.issuer));
        checkCertificate(c, root);
        require(c.role == Role.PckCa || c.role == Role.TcbSigner, CertificateRole());
        id = issuerId(c.x, c.y, c.subject);
        Issuer storage issuer = issuers[id];
        issuer.role = c.role;
        issuer.notAfter = uint40(c.notAfter);
        issuerOfSerial[serialKey(root, c.serial)] = id;
        emit IssuerAdded(id, c.role, uint40(c.notAfter));
    }

    /// @notice Posts a revocation list an issuer has signed and marks certificates it names; anyone may, with one no older than the last.
    /// @param packed the signed part of the list, as DER, packed (see `PackedText`)
    /// @param x y the issuer's key
    /// @param offsets where in the list the entries to mark begin, ascending; none just renews the list's dates
    function postCrl(bytes calldata packed, bytes32 r, bytes32 s, bytes32 x, bytes32 y, uint256[] calldata offsets) external {
        (bytes memory tbs, bytes32 digest) = reader.unpack(packed);
        require(P256.verify(digest, r, s, x, y), CrlNotSigned());
        (Crl memory crl, uint256[] memory serials) = reader.crl(tbs, offsets);
        bytes32 id = issuerId(x, y, crl.issuer);
        Issuer memory issuer = usable(id);
        require(issuer.role == Role.Root || issuer.role == Role.PckCa, CertificateRole());
        require(
            crl.thisUpdate <= block.timestamp && block.timestamp <= crl.nextUpdate,
            CrlNotCurrent(crl.thisUpdate, crl.nextUpdate)
        );
        require(
            crl.number >= issuer.crlNumber && crl.thisUpdate >= issuer.crlThisUpdate,
            CrlOlderThanPosted(crl.number, crl.thisUpdate)
        );
        issuer.crlNumber = uint112(crl.number);
        issuer.crlThisUpdate = uint40(crl.thisUpdate);
        issuer.crlNextUpdate = uint40(crl.nextUpdate);
        issuers[id] = issuer;
        emit CrlPosted(id, uint112(crl.number), uint40(crl.nextUpdate));
        for (uint256 i = 0; i < serials.length; i++) markRevoked(id, serials[i]);
    }

    /// @dev Gives an issuer that may vouch now.
    function usable(bytes32 id) internal view returns (Issuer memory issuer) {
        issuer = issuers[id];
        require(issuer.role != Role.None, IssuerUnknown(id));
        require(!issuer.revoked, IssuerRevoked(id));
        require(issuer.notAfter >= block.timestamp, CertificateExpired(issuer.notAfter));
    }

    /// @dev Window and revocation of a certificate that an issuer has signed.
    function checkCertificate(Certificate memory c, bytes32 id) internal view {
        require(c.notBefore <= block.timestamp, CertificateNotYetValid(c.notBefore));
        require(c.notAfter >= block.timestamp, CertificateExpired(c.notAfter));
        require(!revokedSerials[serialKey(id, c.serial)], CertificateIsRevoked(id, c.serial));
    }

    function markRevoked(bytes32 id, uint256 serial) private {
        bytes32 key = serialKey(id, serial);
        if (revokedSerials[key]) return;
        revokedSerials[key] = true;
        emit CertificateRevoked(id, serial);
        bytes32 child = issuerOfSerial[key];
        if (child == 0) return;
        issuers[child].revoked = true;
        // What a revoked signer has signed counts no more, whoever posted it.
        if (issuers[child].role == Role.TcbSigner) tcbRules.collateralEpoch++;
    }
}
