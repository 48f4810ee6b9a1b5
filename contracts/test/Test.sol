// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @dev A secp256k1 key with its public half.
struct Wallet {
    address addr;
    uint256 publicKeyX;
    uint256 publicKeyY;
    uint256 privateKey;
}

/// @dev The few cheat codes these tests use; forge answers them at a fixed address.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function chainId(uint256 id) external;
    function computeCreateAddress(address deployer, uint256 nonce) external pure returns (address);
    function createWallet(uint256 key) external view returns (Wallet memory);
    /// @dev Deploys by name: a test that says `new` carries the whole contract in its own code, compiled once more.
    function deployCode(string calldata path, bytes calldata arguments) external returns (address);
    function expectCall(address callee, bytes calldata data, uint64 count) external;
    function etch(address target, bytes calldata code) external;
    /// @dev What `block.timestamp` should say after `warp`; the optimizer takes the opcode for a constant within one function.
    function getBlockTimestamp() external view returns (uint256);
    function getNonce(address account) external view returns (uint64);
    function parseJsonAddress(string calldata json, string calldata key) external pure returns (address);
    function parseJsonBytes32(string calldata json, string calldata key) external pure returns (bytes32);
    function parseJsonBytes32Array(string calldata json, string calldata key) external pure returns (bytes32[] memory);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
    function parseUint(string calldata text) external pure returns (uint256);
    function prank(address sender) external;
    function publicKeyP256(uint256 key) external pure returns (uint256 x, uint256 y);
    function readFile(string calldata path) external view returns (string memory);
    function roll(uint256 number) external;
    function setBlockhash(uint256 number, bytes32 hash) external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function signP256(uint256 key, bytes32 digest) external pure returns (bytes32 r, bytes32 s);
    function toString(uint256 value) external pure returns (string memory);
    function warp(uint256 timestamp) external;
}

/// @dev Own base: the npm release of forge-std predates the JSON cheat codes and needs a package npm does not have.
abstract contract Test {
    Vm internal constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);

    error NotEqual(bytes32 got, bytes32 expected);

    function assertEq(bytes32 got, bytes32 expected) internal pure {
        require(got == expected, NotEqual(got, expected));
    }

    function assertEq(uint256 got, uint256 expected) internal pure {
        require(got == expected, NotEqual(bytes32(got), bytes32(expected)));
    }

    function assertEq(address got, address expected) internal pure {
        assertEq(uint160(got), uint160(expected));
    }

    /// @dev Folds a fuzzed value into a range, ends included.
    function bound(uint256 value, uint256 low, uint256 high) internal pure returns (uint256) {
        return low + value % (high - low + 1);
    }
}
