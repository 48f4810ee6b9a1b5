// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Keeps bytes as the code of an account: a fifth of what storage slots cost to write, and one access to read.
library DataStore {
    error DataNotStored();

    /// @notice Stores bytes for ever. The first byte of the account's code is STOP, so nobody can run the rest.
    function write(bytes memory data) internal returns (address account) {
        // PUSH2 size, DUP1, PUSH1 10, PUSH0, CODECOPY, PUSH0, RETURN: deploys what follows these ten bytes.
        bytes memory creation = abi.encodePacked(hex"61", uint16(data.length + 1), hex"80600a5f395ff3", hex"00", data);
        assembly ("memory-safe") {
            account := create(0, add(creation, 0x20), mload(creation))
        }
        require(account != address(0), DataNotStored());
    }

    /// @notice Reads bytes back; 32 zero bytes follow them in memory.
    function read(address account) internal view returns (bytes memory data) {
        assembly ("memory-safe") {
            data := mload(0x40)
            let size := sub(extcodesize(account), 1)
            mstore(data, size)
            extcodecopy(account, add(data, 0x20), 1, size)
            mstore(add(add(data, 0x20), size), 0)
            mstore(0x40, add(data, and(add(size, 0x5f), not(0x1f))))
        }
    }
}
