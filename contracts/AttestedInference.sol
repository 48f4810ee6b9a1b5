// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Detail, Proof, Protocol, Receipt, Terms} from "./Protocol.sol";
import {RunnerRegistry} from "./RunnerRegistry.sol";

/// @notice Lets any contract check one inference in one call: this model turned this input into this output inside an attested runner.
contract AttestedInference {
    RunnerRegistry public immutable registry;
    bytes32 public immutable domainSeparator;

    error DetailMismatch();
    error NotInBatch();
    error WrongSigner(address signer);
    error RunnerNotAttested(address runner, uint64 finishedAt);
    error JobFailed(uint8 status);

    constructor(RunnerRegistry registry_) {
        registry = registry_;
        domainSeparator = Protocol.domainSeparator(registry_.escrow());
    }

    /// @notice Reverts unless the receipt holds: detail, proof, signature by the runner the terms name, attested when the work finished, status ok.
    /// @return channel the channel of the terms
    function verify(
        Terms calldata terms,
        Receipt calldata receipt,
        Detail calldata detail,
        Proof calldata proof,
        bytes calldata batchSignature
    ) external view returns (bytes32 channel) {
        require(Protocol.detailDigest(detail) == receipt.detail, DetailMismatch());
        channel = Protocol.channelOf(domainSeparator, terms);
        bytes32 root = Protocol.rootFromProof(Protocol.leaf(channel, receipt), proof);
        require(root != 0, NotInBatch());
        address signer = Protocol.recover(Protocol.batchDigest(domainSeparator, root, proof.count), batchSignature);
        require(signer != address(0) && signer == terms.runner, WrongSigner(signer));
        (, bool active) = registry.providerAt(signer, receipt.finishedAt);
        require(active, RunnerNotAttested(signer, receipt.finishedAt));
        require(receipt.status == 0, JobFailed(receipt.status));
    }
}
