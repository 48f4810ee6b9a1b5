// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {AttestedInference} from "../AttestedInference.sol";
import {Detail, Proof, Receipt, Terms} from "../Protocol.sol";
import {Stake} from "../Stake.sol";

/// @notice Shows one inference as `AttestedInference` takes it.
struct Inference {
    Terms terms;
    Receipt receipt;
    Detail detail;
    Proof proof;
    bytes batchSignature;
}

/// @notice Opens a commitment: its salt, and the canonical bytes of the tensors (`docs/protocol.md`).
struct Opening {
    bytes32 salt;
    bytes tensors;
}

/// @notice Pays a grant when a named model, run on a named input by an attested and staked runner, gives a score that is high enough.
/// @dev An example to start from. Warning: opening a commitment makes input and output public. Warning: whoever may ask can ask again; a
///      model that does not answer the same way every time gives them the best of many answers.
contract Grants {
    using SafeERC20 for IERC20;

    /// @dev `question` is the Keccak-256 of the input's canonical bytes; `shape` that of the output's up to its data, one FP32. `threshold` is
    ///      an FP32 as its bits: of numbers that are not negative, the larger has the larger bits.
    struct Grant {
        address sponsor;
        address beneficiary;
        uint128 amount;
        uint128 cover;
        uint64 expiresAt;
        uint32 threshold;
        bytes32 model;
        bytes32 question;
        bytes32 shape;
    }

    /// @notice An answer counts this long.
    uint256 public constant MAX_AGE = 1 days;
    uint32 private constant INFINITY = 0x7F800000;

    AttestedInference public immutable inference;
    Stake public immutable stakes;
    IERC20 public immutable token;

    Grant[] public grants;
    mapping(bytes32 job => bool) public used;

    event Granted(uint256 indexed id, address indexed sponsor, address indexed beneficiary, uint256 amount);
    event Earned(uint256 indexed id, address indexed beneficiary, uint256 amount, uint32 score);
    event Reclaimed(uint256 indexed id, uint256 amount);

    error BadGrant();
    error NothingToPay();
    error WrongModel(bytes32 model);
    error TooOld(uint64 finishedAt);
    error TooLittleCover(uint256 cover);
    error AlreadyUsed(bytes32 channel, uint64 job);
    error WrongInput();
    error WrongOutput();
    error ScoreTooLow(uint32 score);
    error TooEarly(uint64 expiresAt);

    constructor(AttestedInference inference_, Stake stakes_) {
        inference = inference_;
        stakes = stakes_;
        token = stakes_.token();
    }

    /// @notice Opens a grant with the caller's money, after an ERC-20 approval; a token that keeps a part of each transfer does not fit here.
    function open(Grant calldata grant) external returns (uint256 id) {
        require(grant.sponsor == msg.sender && grant.amount > 0 && grant.threshold < INFINITY, BadGrant());
        id = grants.length;
        grants.push(grant);
        emit Granted(id, msg.sender, grant.beneficiary, grant.amount);
        token.safeTransferFrom(msg.sender, address(this), grant.amount);
    }

    /// @notice Pays a grant on an inference that holds, once; no inference pays twice.
    function earn(uint256 id, Inference calldata ran, Opening calldata input, Opening calldata output) external {
        Grant memory grant = grants[id];
        require(grant.amount > 0, NothingToPay());
        require(ran.terms.model == grant.model, WrongModel(ran.terms.model));
        require(block.timestamp <= ran.receipt.finishedAt + MAX_AGE, TooOld(ran.receipt.finishedAt));
        bytes32 channel = inference.verify(ran.terms, ran.receipt, ran.detail, ran.proof, ran.batchSignature);
        uint256 cover = stakes.cover(ran.terms.runner, block.timestamp + stakes.DISPUTE_WINDOW());
        require(cover >= grant.cover, TooLittleCover(cover));
        require(opens(input, ran.detail.input) && keccak256(input.tensors) == grant.question, WrongInput());
        require(opens(output, ran.detail.output), WrongOutput());
        uint32 score = scoreOf(output.tensors, grant.shape);
        require(score >= grant.threshold && score < INFINITY, ScoreTooLow(score));
        bytes32 job = keccak256(abi.encode(channel, ran.receipt.job));
        require(!used[job], AlreadyUsed(channel, ran.receipt.job));

        used[job] = true;
        grants[id].amount = 0;
        emit Earned(id, grant.beneficiary, grant.amount, score);
        token.safeTransfer(grant.beneficiary, grant.amount);
    }

    /// @notice Gives a grant that nobody earned in time back to its sponsor. Anyone may call it.
    function reclaim(uint256 id) external {
        Grant memory grant = grants[id];
        require(grant.amount > 0, NothingToPay());
        require(block.timestamp > grant.expiresAt, TooEarly(grant.expiresAt));
        grants[id].amount = 0;
        emit Reclaimed(id, grant.amount);
        token.safeTransfer(grant.sponsor, grant.amount);
    }

    /// @dev Tells whether salt and tensors are what was committed to.
    function opens(Opening calldata opening, bytes32 commitment) private pure returns (bool) {
        return sha256(abi.encodePacked("ASY1tens", opening.salt, opening.tensors)) == commitment;
    }

    /// @dev Reads the one number of an output laid out as the grant says. Tensors are little-endian. A negative number or NaN has bits above
    ///      infinity's, which `earn` refuses.
    function scoreOf(bytes calldata tensors, bytes32 shape) private pure returns (uint32) {
        require(tensors.length >= 4, WrongOutput());
        uint256 at = tensors.length - 4;
        require(keccak256(tensors[:at]) == shape, WrongOutput());
        return uint32(uint8(tensors[at])) | uint32(uint8(tensors[at + 1])) << 8 | uint32(uint8(tensors[at + 2])) << 16
            | uint32(uint8(tensors[at + 3])) << 24;
    }
}
