// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "./Test.sol";
import {ProtocolHarness} from "./Protocol.t.sol";
import {AttestedInference} from "../AttestedInference.sol";
import {Detail, Proof, Protocol, Receipt, Terms} from "../Protocol.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";

/// @dev Answers as a registry in which one runner was attested from one time to another.
contract OneRunner {
    address private immutable runner;
    uint64 private immutable from;
    uint64 private immutable until;

    constructor(address runner_, uint64 from_, uint64 until_) {
        (runner, from, until) = (runner_, from_, until_);
    }

    function providerAt(address signer, uint64 at) external view returns (address, bool) {
        return (address(0x1001), (signer == runner || signer == address(0)) && at >= from && at <= until);
    }

    function escrow() external pure returns (address) {
        return address(0xE5C);
    }
}

/// @notice Checks what other contracts rely on: no inference holds but one that a runner signed.
contract InferenceTest is Test {
    uint256 private constant RUNNER = 0xA11CE;
    uint256 private constant OTHER = 0xA11CF;

    AttestedInference private inference;
    ProtocolHarness private harness = new ProtocolHarness();

    struct Shown {
        Terms terms;
        Receipt receipt;
        Detail detail;
        Proof proof;
        bytes signature;
    }

    function setUp() public {
        vm.chainId(31337);
        inference = new AttestedInference(RunnerRegistry(address(new OneRunner(vm.addr(RUNNER), 1_000, 2_000))));
    }

    function made(uint256 key, uint8 status, uint64 finishedAt) private view returns (Shown memory it) {
        it.terms = Terms(
            address(0x1005), vm.addr(RUNNER), bytes32(uint256(1)), address(0x1002), 1, 1_000, 100, 3_000, bytes32(uint256(7))
        );
        it.detail = Detail(keccak256("input"), keccak256("output"), keccak256("execution"), 1);
        it.receipt = Receipt(1, status, 100, finishedAt, harness.detailDigest(it.detail));
        it.proof = Proof(1, 2, new bytes32[](1));
        it.proof.path[0] = keccak256("another leaf");
        it.signature = signature(key, it);
    }

    function signature(uint256 key, Shown memory it) private view returns (bytes memory) {
        bytes32 domain = inference.domainSeparator();
        bytes32 leaf = harness.leaf(harness.channelOf(domain, it.terms), it.receipt);
        bytes32 root = Protocol.node(it.proof.path[0], leaf);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, Protocol.batchDigest(domain, root, 2));
        return abi.encodePacked(r, s, v);
    }

    function verify(Shown memory it) private view returns (bytes32) {
        return inference.verify(it.terms, it.receipt, it.detail, it.proof, it.signature);
    }

    function refuses(Shown memory it, bytes4 reason) private view {
        try inference.verify(it.terms, it.receipt, it.detail, it.proof, it.signature) {
            require(false, "held");
        } catch (bytes memory got) {
            assertEq(bytes32(bytes4(got)), bytes32(reason));
        }
    }

    function test_holds() public view {
        Shown memory it = made(RUNNER, 0, 1_500);
        assertEq(verify(it), harness.channelOf(inference.domainSeparator(), it.terms));
        verify(made(RUNNER, 0, 1_000));
        verify(made(RUNNER, 0, 2_000));
    }

    function test_anotherDetail() public view {
        Shown memory it = made(RUNNER, 0, 1_500);
        it.detail.price = 2;
        refuses(it, AttestedInference.DetailMismatch.selector);
        it = made(RUNNER, 0, 1_500);
        it.detail.output = keccak256("another output");
        refuses(it, AttestedInference.DetailMismatch.selector);
    }

    function test_aProofThatLeadsNowhere() public view {
        Shown memory it = made(RUNNER, 0, 1_500);
        it.proof.path = new bytes32[](0);
        // Whoever can have root zero signed for one thing must not have it count for another.
        bytes32 domain = inference.domainSeparator();
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(RUNNER, Protocol.batchDigest(domain, 0, 2));
        it.signature = abi.encodePacked(r, s, v);
        refuses(it, AttestedInference.NotInBatch.selector);
    }

    function test_anotherSigner_orNone() public view {
        refuses(made(OTHER, 0, 1_500), AttestedInference.WrongSigner.selector);
        Shown memory it = made(RUNNER, 0, 1_500);
        it.signature = new bytes(65);
        refuses(it, AttestedInference.WrongSigner.selector);
        it.signature = "";
        refuses(it, AttestedInference.WrongSigner.selector);
        // Terms with nobody as their runner match a signature nobody made.
        it.terms.runner = address(0);
        refuses(it, AttestedInference.WrongSigner.selector);
        // An attested runner's signature under the terms of another.
        it = made(RUNNER, 0, 1_500);
        it.terms.runner = vm.addr(OTHER);
        it.signature = signature(RUNNER, it);
        refuses(it, AttestedInference.WrongSigner.selector);
    }

    function test_workOutsideTheAttestation() public view {
        refuses(made(RUNNER, 0, 999), AttestedInference.RunnerNotAttested.selector);
        refuses(made(RUNNER, 0, 2_001), AttestedInference.RunnerNotAttested.selector);
    }

    function testFuzz_jobsThatFailed(uint8 status) public view {
        if (status > 0) refuses(made(RUNNER, status, 1_500), AttestedInference.JobFailed.selector);
    }

    function testFuzz_anyByteOfTheSignature(uint8 at, uint8 flip) public view {
        Shown memory it = made(RUNNER, 0, 1_500);
        if (flip == 0) return;
        it.signature[at % 65] ^= bytes1(flip);
        refuses(it, AttestedInference.WrongSigner.selector);
    }
}
