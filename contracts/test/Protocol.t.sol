// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "./Test.sol";
import {Detail, Proof, Protocol, Receipt, Terms} from "../Protocol.sol";

/// @dev Gives the library's calldata functions an outside.
contract ProtocolHarness {
    function domainSeparator(address escrow) external view returns (bytes32) {
        return Protocol.domainSeparator(escrow);
    }

    function channelOf(bytes32 domain, Terms calldata t) external pure returns (bytes32) {
        return Protocol.channelOf(domain, t);
    }

    function detailDigest(Detail calldata d) external view returns (bytes32) {
        return Protocol.detailDigest(d);
    }

    function leaf(bytes32 channel, Receipt calldata r) external view returns (bytes32) {
        return Protocol.leaf(channel, r);
    }

    function rootFromProof(bytes32 hash, Proof calldata p) external view returns (bytes32) {
        return Protocol.rootFromProof(hash, p);
    }

    function merkleRoot(bytes32[] memory nodes) external view returns (bytes32) {
        return Protocol.merkleRoot(nodes);
    }

    function recover(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return Protocol.recover(digest, signature);
    }
}

/// @notice Checks the Solidity side against the very vectors the TypeScript side is checked against.
contract ProtocolVectorsTest is Test {
    ProtocolHarness private harness = new ProtocolHarness();

    function read(string memory name) private view returns (string memory) {
        return vm.readFile(string.concat("protocol/vectors/", name, ".json"));
    }

    function number(string memory json, string memory key) private pure returns (uint256) {
        return vm.parseUint(vm.parseJsonString(json, key));
    }

    function domain() private view returns (bytes32) {
        return harness.domainSeparator(vm.parseJsonAddress(read("domain"), ".escrow"));
    }

    function terms() private view returns (Terms memory t) {
        string memory json = read("terms");
        t.buyer = vm.parseJsonAddress(json, ".buyer");
        t.runner = vm.parseJsonAddress(json, ".runner");
        t.model = vm.parseJsonBytes32(json, ".model");
        t.publisher = vm.parseJsonAddress(json, ".publisher");
        t.price = uint128(number(json, ".price"));
        t.royaltyBps = uint16(number(json, ".royaltyBps"));
        t.feeBps = uint16(number(json, ".feeBps"));
        t.expiresAt = uint64(number(json, ".expiresAt"));
        t.salt = vm.parseJsonBytes32(json, ".salt");
    }

    function setUp() public {
        vm.chainId(31337);
    }

    function test_channel() public view {
        assertEq(harness.channelOf(domain(), terms()), vm.parseJsonBytes32(read("terms"), ".channel"));
    }

    function test_typedData() public view {
        string memory json = read("typed");
        bytes32 channel = vm.parseJsonBytes32(read("terms"), ".channel");
        assertEq(
            Protocol.voucherDigest(domain(), channel, uint128(number(json, ".voucher.cumulative"))),
            vm.parseJsonBytes32(json, ".voucher.digest")
        );
        assertEq(
            Protocol.batchDigest(
                domain(), vm.parseJsonBytes32(json, ".batch.root"), uint32(number(json, ".batch.count"))
            ),
            vm.parseJsonBytes32(json, ".batch.digest")
        );
        assertEq(
            Protocol.registrationDigest(
                domain(),
                vm.parseJsonAddress(json, ".registration.runner"),
                vm.parseJsonAddress(json, ".registration.provider"),
                vm.parseJsonBytes32(json, ".registration.statement")
            ),
            vm.parseJsonBytes32(json, ".registration.digest")
        );
    }

    function test_receiptAndDetail() public view {
        string memory json = read("receipt");
        Detail memory detail = Detail(
            vm.parseJsonBytes32(json, ".detailInput"),
            vm.parseJsonBytes32(json, ".detailOutput"),
            vm.parseJsonBytes32(json, ".detailExecution"),
            uint128(number(json, ".detailPrice"))
        );
        assertEq(harness.detailDigest(detail), vm.parseJsonBytes32(json, ".detail"));
        Receipt memory receipt = Receipt(
            uint64(number(json, ".job")),
            uint8(number(json, ".status")),
            uint128(number(json, ".cumulative")),
            uint64(number(json, ".finishedAt")),
            vm.parseJsonBytes32(json, ".detail")
        );
        assertEq(
            harness.leaf(vm.parseJsonBytes32(read("terms"), ".channel"), receipt), vm.parseJsonBytes32(json, ".leaf")
        );
    }

    function test_merkle() public view {
        string memory json = read("merkle");
        for (uint256 size = 1; size <= 9; size++) {
            string memory tree = string.concat(".trees[", vm.toString(size - 1), "]");
            bytes32[] memory leaves = vm.parseJsonBytes32Array(json, string.concat(tree, ".leaves"));
            bytes32 root = vm.parseJsonBytes32(json, string.concat(tree, ".root"));
            for (uint256 i = 0; i < size; i++) {
                string memory at = string.concat(tree, ".proofs[", vm.toString(i), "]");
                bytes32[] memory path = size == 1 ? new bytes32[](0) : vm.parseJsonBytes32Array(json, at);
                Proof memory proof = Proof(uint32(i), uint32(size), path);
                assertEq(harness.rootFromProof(leaves[i], proof), root);
                proof.count = uint32(size + 8);
                require(harness.rootFromProof(leaves[i], proof) != root, "a proof fits another count");
            }
            assertEq(harness.merkleRoot(leaves), root);
        }
    }

    function testFuzz_recover_refusesHighS(uint256 key, bytes32 digest) public view {
        key = bound(key, 1, 2 ** 200);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        assertEq(harness.recover(digest, abi.encodePacked(r, s, v)), vm.addr(key));
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes memory high = abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        assertEq(harness.recover(digest, high), address(0));
    }

    /// @dev Half the order itself is not above it (EIP-2); whom such a signature names does not matter here.
    function test_recover_takesAnSOfHalfTheOrder() public view {
        (, bytes32 r,) = vm.sign(1, keccak256("digest"));
        uint256 half = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
        require(harness.recover(keccak256("digest"), abi.encodePacked(r, half, uint8(27))) != address(0), "was refused");
        assertEq(harness.recover(keccak256("digest"), abi.encodePacked(r, half + 1, uint8(27))), address(0));
    }
}
