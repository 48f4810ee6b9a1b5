// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @notice Stands at one buyer's own address, where tokens can simply be sent; lets the escrow that made it take them and does nothing else.
/// @dev The address tells whose the tokens are, which a transfer to the escrow itself does not: so it does not matter who sent the transfer,
///      or whether somebody sent a signed one first (EIP-3009 `transferWithAuthorization`).
contract Inbox {
    constructor(IERC20 token) {
        SafeERC20.forceApprove(token, msg.sender, type(uint256).max);
    }
}
