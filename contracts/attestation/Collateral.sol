// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {DataStore} from "./DataStore.sol";
import {Role} from "./Certificates.sol";
import {P256} from "./P256.sol";
import {Platforms} from "./Platforms.sol";
import {Tables} from "./Tables.sol";
import {TcbText} from "./TcbTexts.sol";

/// @notice Keeps the vendor's TCB info and quoting enclave identity: anyone posts the signed text, the levels are read out of those very bytes.
abstract contract Collateral is Platforms {
    /// @notice Names a signer of collateral: its key and the Keccak-256 of its name, as DER.
    struct Signer {
        bytes32 x;
        bytes32 y;
        bytes32 name;
    }

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

    uint256 internal constant QE_DATES = 12;

    event TcbInfoPosted(bytes8 indexed platform, uint16 evaluation, bytes32 text);
    event QeIdentityPosted(uint16 evaluation, bytes32 text);

    error CollateralNotSigned();
    error CollateralNotCurrent(uint256 issueDate, uint256 nextUpdate);
    error CollateralOlderThanPosted(uint256 evaluation, uint256 issueDate);
    error CollateralMissing(bytes8 platform);
    error CollateralTooOld(uint256 issueDate, uint256 evaluation);

    /// @notice Posts TCB info. Never goes back: neither the evaluation number nor the issue date may be lower than what was posted.
    /// @param signer who signed it
    /// @param packed the exact bytes that were signed, packed (see `PackedText`)
    function postTcbInfo(Signer calldata signer, bytes calldata packed, bytes32 r, bytes32 s) external {
        (bytes32 digest, TcbText memory info, bytes memory table) = reader.tcbInfo(packed);
        checkSigned(signer, digest, r, s);
        post(tcbInfos[info.platform], info, table);
        emit TcbInfoPosted(info.platform, uint16(info.evaluation), digest);
    }

    /// @notice Posts the identity of the TD quoting enclave, on the same terms.
    function postQeIdentity(Signer calldata signer, bytes calldata packed, bytes32 r, bytes32 s) external {
        (bytes32 digest, TcbText memory info, bytes memory table) = reader.qeIdentity(packed);
        checkSigned(signer, digest, r, s);
        checkNewer(qeIdentity(), info);
        // Its dates lie beside its levels, so that registering reads one slot less.
        tcbRules.qeTable = DataStore.write(
            abi.encodePacked(
                uint32(info.issueDate), uint32(info.nextUpdate), uint16(info.evaluation), tcbRules.collateralEpoch, table
            )
        );
        emit QeIdentityPosted(uint16(info.evaluation), digest);
    }

    /// @notice Tells what identity of the quoting enclave is posted; zeros where there is none.
    function qeIdentity() public view returns (Posted memory posted) {
        address account = tcbRules.qeTable;
        if (account != address(0)) posted = datesOf(account, DataStore.read(account));
    }

    /// @dev Loads the levels of a platform's TCB info that is in force, and the moment it lapses.
    function tcbTable(bytes8 platform, TcbRules memory inForce) internal view returns (bytes memory table, uint256 until) {
        Posted memory posted = tcbInfos[platform];
        until = checkCurrent(posted, inForce, platform);
        table = DataStore.read(posted.table);
    }

    /// @dev Loads the quoting enclave's identity that is in force, and the moment it lapses. Its levels begin after `QE_DATES` bytes.
    function qeTable(TcbRules memory inForce) internal view returns (bytes memory table, uint256 until) {
        address account = inForce.qeTable;
        require(account != address(0), CollateralMissing(0));
        table = DataStore.read(account);
        until = checkCurrent(datesOf(account, table), inForce, 0);
    }

    function datesOf(address account, bytes memory table) private pure returns (Posted memory) {
        uint256 dates = Tables.read(table, 0, QE_DATES);
        return Posted(account, uint32(dates >> 64), uint32(dates >> 32), uint16(dates >> 16), uint16(dates));
    }

    function checkCurrent(Posted memory posted, TcbRules memory inForce, bytes8 platform) private view returns (uint256) {
        require(posted.table != address(0) && posted.collateralEpoch == inForce.collateralEpoch, CollateralMissing(platform));
        uint256 oldest = uint256(posted.issueDate) + uint256(inForce.maxCollateralAgeHours) * 1 hours;
        require(posted.nextUpdate >= block.timestamp, CollateralNotCurrent(posted.issueDate, posted.nextUpdate));
        require(
            oldest >= block.timestamp && posted.evaluation >= inForce.minEvaluation,
            CollateralTooOld(posted.issueDate, posted.evaluation)
        );
        return oldest < posted.nextUpdate ? oldest : posted.nextUpdate;
    }

    function checkSigned(Signer calldata signer, bytes32 digest, bytes32 r, bytes32 s) private view {
        require(usable(issuerId(signer.x, signer.y, signer.name)).role == Role.TcbSigner, CertificateRole());
        require(P256.verify(digest, r, s, signer.x, signer.y), CollateralNotSigned());
    }

    function checkNewer(Posted memory before, TcbText memory info) private view {
        require(
            info.issueDate <= block.timestamp && block.timestamp <= info.nextUpdate && info.nextUpdate < 1 << 32,
            CollateralNotCurrent(info.issueDate, info.nextUpdate)
        );
        require(
            info.evaluation >= before.evaluation && info.issueDate >= before.issueDate,
            CollateralOlderThanPosted(info.evaluation, info.issueDate)
        );
    }

    function post(Posted storage posted, TcbText memory info, bytes memory table) private {
        Posted memory before = posted;
        checkNewer(before, info);
        // The vendor signs the same levels anew every day; only levels that differ are stored again.
        address account = before.table;
        if (account == address(0) || account.codehash != keccak256(abi.encodePacked(bytes1(0), table))) {
            account = DataStore.write(table);
        }
        // One write; member by member the compiler makes five.
        uint256 slot = uint256(uint160(account)) | info.issueDate << 160 | info.nextUpdate << 192
            | info.evaluation << 224 | uint256(tcbRules.collateralEpoch) << 240;
        assembly ("memory-safe") {
            sstore(posted.slot, slot)
        }
    }
}
