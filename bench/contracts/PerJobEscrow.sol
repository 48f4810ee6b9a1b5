// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @notice Escrows one payment a job, as little as that can be: the buyer locks the price, the provider brings the machine's
///         signature over the digest of an answer and is paid.
/// @dev A baseline for measurements: it checks no attestation and gives nobody a refund.
contract PerJobEscrow {
    using SafeERC20 for IERC20;

    struct Job {
        address buyer;
        uint96 price;
        address provider;
        address runner;
        bytes32 answer;
    }

    IERC20 public immutable token;
    mapping(uint256 job => Job) public jobs;
    uint256 public count;

    event Opened(uint256 indexed job, address indexed buyer, address indexed provider, uint96 price, bytes32 request);
    event Answered(uint256 indexed job, bytes32 answer);

    error NotTheProvider();
    error AlreadyAnswered();
    error NotSigned();

    constructor(IERC20 token_) {
        token = token_;
    }

    function open(address provider, address runner, uint96 price, bytes32 request) external returns (uint256 job) {
        job = ++count;
        jobs[job] = Job(msg.sender, price, provider, runner, 0);
        emit Opened(job, msg.sender, provider, price, request);
        token.safeTransferFrom(msg.sender, address(this), price);
    }

    function answer(uint256 job, bytes32 digest, uint8 v, bytes32 r, bytes32 s) external {
        Job storage stored = jobs[job];
        require(msg.sender == stored.provider, NotTheProvider());
        require(stored.answer == 0, AlreadyAnswered());
        address signer = ecrecover(keccak256(abi.encode(job, digest)), v, r, s);
        require(signer != address(0) && signer == stored.runner, NotSigned());
        stored.answer = digest;
        emit Answered(job, digest);
        token.safeTransfer(msg.sender, stored.price);
    }
}
