// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {Protocol} from "./Protocol.sol";

/// @notice A token anyone may mint, with six decimals and EIP-3009 as USDC has; it exists on local chains only.
contract TestToken is ERC20Permit {
    bytes32 private constant RECEIVE_TYPE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    bytes32 private constant TRANSFER_TYPE = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    mapping(address from => mapping(bytes32 nonce => bool)) public authorizationState;

    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);

    error LocalChainsOnly(uint256 chainId);
    error AuthorizationInvalid();

    constructor() ERC20("Assay test dollar", "TUSD") ERC20Permit("Assay test dollar") {
        require(block.chainid == 31337 || block.chainid == 1337, LocalChainsOnly(block.chainid));
    }

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    /// @notice Makes money out of nothing.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    /// @notice Moves money on its owner's signature; only the payee may send it (EIP-3009).
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external {
        require(msg.sender == to, AuthorizationInvalid());
        useAuthorization(RECEIVE_TYPE, from, to, value, validAfter, validBefore, nonce, signature);
    }

    /// @notice Moves money on its owner's signature; anyone may send it (EIP-3009).
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external {
        useAuthorization(TRANSFER_TYPE, from, to, value, validAfter, validBefore, nonce, signature);
    }

    function useAuthorization(
        bytes32 typeHash,
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) private {
        require(
            block.timestamp > validAfter && block.timestamp < validBefore && !authorizationState[from][nonce],
            AuthorizationInvalid()
        );
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(typeHash, from, to, value, validAfter, validBefore, nonce)));
        require(from != address(0) && Protocol.recover(digest, signature) == from, AuthorizationInvalid());
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, to, value);
    }
}
