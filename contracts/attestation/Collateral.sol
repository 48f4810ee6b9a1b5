// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {DataStore} from "./DataStore.sol";
import {Role} from "./Certificates.sol";
import {P256} from "./P256.sol";
import {Platforms} from "./Platforms.sol";
import {TcbText} from "./TcbTexts.sol";

/// @notice Keeps the vendor's TCB info and quoting enclave identity: anyone posts the signed text, the levels are read out of those very bytes.
abstract contract Collateral is Platforms {
    /// @notice Fills one slot; the levels lie in the code of an account.
    struct Posted {
        address table;
        uint32 issueDate;
        uint32 nextUpdate;
        uint16 evaluation;
        uint16 collateralEpoch;
    }

    /// @notice TCB info by FMSPC and PCE id.
    mapping(bytes8 platform => Posted) public tcbInfos;
    /// @notice The identity of the TD quoting enclave.
    Posted public qeIdentity;

    event TcbInfoPosted(bytes8 indexed platform, uint16 evaluation, uint40 issueDate, uint40 nextUpdate, bytes32 text);
    event QeIdentityPosted(uint16 evaluation, uint40 issueDate, uint40 nextUpdate, bytes32 text);

    error CollateralNotSigned();
    error CollateralNotCurrent(uint256 issueDate, uint256 nextUpdate);
    error CollateralOlderThanPosted(uint256 evaluation, uint256 issueDate);
    error CollateralMissing(bytes8 platform);
    error CollateralTooOld(uint256 issueDate, uint256 evaluation);

    /// @notice Posts TCB info. Never goes back: neither the evaluation number nor the issue date may be lower than what was posted.
    /// @param signer id of the key that signed it
    /// @param text the exact bytes that were signed
    function postTcbInfo(bytes32 signer, bytes calldata text, bytes32 r, bytes32 s) external {
        bytes32 digest = checkText(signer, text, r, s);
        (TcbText memory info, bytes memory table) = reader.tcbInfo(text);
        post(tcbInfos[info.platform], info, table);
        emit TcbInfoPosted(info.platform, uint16(info.evaluation), uint40(info.issueDate), uint40(info.nextUpdate), digest);
    }

    /// @notice Posts the identity of the TD quoting enclave, on the same terms.
    function postQeIdentity(bytes32 signer, bytes calldata text, bytes32 r, bytes32 s) external {
        bytes32 digest = checkText(signer, text, r, s);
        (TcbText memory info, bytes memory table) = reader.qeIdentity(text);
        post(qeIdentity, info, table);
        emit QeIdentityPosted(uint16(info.evaluation), uint40(info.issueDate), uint40(info.nextUpdate), digest);
    }

    /// @dev Loads a table that is in force under the rules, and the moment it lapses.
    function current(Posted memory posted, Rules memory inForce, bytes8 platform)
        internal
        view
        returns (bytes memory table, uint256 validUntil)
    {
        require(posted.table != address(0) && posted.collateralEpoch == inForce.collateralEpoch, CollateralMissing(platform));
        uint256 oldest = uint256(posted.issueDate) + inForce.maxCollateralAge;
        require(posted.nextUpdate >= block.timestamp, CollateralNotCurrent(posted.issueDate, posted.nextUpdate));
        require(
            oldest >= block.timestamp && posted.evaluation >= inForce.minEvaluation,
            CollateralTooOld(posted.issueDate, posted.evaluation)
        );
        validUntil = oldest < posted.nextUpdate ? oldest : posted.nextUpdate;
        table = DataStore.read(posted.table);
    }

    function checkText(bytes32 signer, bytes calldata text, bytes32 r, bytes32 s) private view returns (bytes32 digest) {
        Issuer storage issuer = usable(signer);
        require(issuer.role == Role.TcbSigner, CertificateRole());
        digest = sha256(text);
        require(P256.verify(digest, r, s, issuer.x, issuer.y), CollateralNotSigned());
    }

    function post(Posted storage posted, TcbText memory info, bytes memory table) private {
        require(
            info.issueDate <= block.timestamp && block.timestamp <= info.nextUpdate,
            CollateralNotCurrent(info.issueDate, info.nextUpdate)
        );
        Posted memory before = posted;
        require(
            info.evaluation >= before.evaluation && info.issueDate >= before.issueDate,
            CollateralOlderThanPosted(info.evaluation, info.issueDate)
        );
        // The vendor signs the same levels anew every day; only levels that differ are stored again.
        if (before.table == address(0) || before.table.codehash != keccak256(abi.encodePacked(bytes1(0), table))) {
            posted.table = DataStore.write(table);
        }
        posted.issueDate = uint32(info.issueDate);
        posted.nextUpdate = uint32(info.nextUpdate);
        posted.evaluation = uint16(info.evaluation);
        posted.collateralEpoch = rules.collateralEpoch;
    }
}
