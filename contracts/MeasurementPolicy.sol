// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

/// @notice Lists the workloads that may register, and switches them off. Its owner can do nothing else, and never touches money.
contract MeasurementPolicy is Ownable {
    /// @notice Position of a workload, from 1; zero when it was never approved.
    mapping(bytes32 workload => uint16) public indexOf;
    /// @notice Whether the workload at a position is approved now.
    mapping(uint16 index => bool) public approved;
    /// @notice Platforms (digest of the PCK certificate) that may not register any more.
    mapping(bytes32 pckId => bool) public denied;
    /// @notice Registrations made up to this time count no more (unix seconds): the kill switch after a TCB recovery.
    uint40 public killedAt;
    uint16 private last;

    event Approved(bytes32 indexed workload, uint16 index);
    event Revoked(bytes32 indexed workload, uint16 index);
    event PlatformDenied(bytes32 indexed pckId);
    event Killed(uint40 at);

    error NotApproved(bytes32 workload);

    constructor(address owner) Ownable(owner) {}

    /// @notice Lets a workload register.
    function approve(bytes32 workload) external onlyOwner {
        uint16 index = indexOf[workload];
        if (index == 0) {
            index = ++last;
            indexOf[workload] = index;
        }
        approved[index] = true;
        emit Approved(workload, index);
    }

    /// @notice Stops a workload: its runners can neither register nor settle until it is approved again.
    function revoke(bytes32 workload) external onlyOwner {
        uint16 index = indexOf[workload];
        require(approved[index], NotApproved(workload));
        approved[index] = false;
        emit Revoked(workload, index);
    }

    /// @notice Stops a platform whose keys are known to have leaked from registering again.
    function denyPlatform(bytes32 pckId) external onlyOwner {
        denied[pckId] = true;
        emit PlatformDenied(pckId);
    }

    /// @notice Ends every registration made so far; each runner has to attest again.
    function kill() external onlyOwner {
        killedAt = uint40(block.timestamp);
        emit Killed(killedAt);
    }
}
