// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Fixes one channel: a buyer, one attested runner key, one model listing, its price and its split.
struct Terms {
    address buyer;
    address runner;
    bytes32 model;
    address publisher;
    uint128 price;
    uint16 royaltyBps;
    uint16 feeBps;
    uint64 expiresAt;
    bytes32 salt;
}

/// @notice Says what a runner did for a channel; the channel itself follows from the terms.
struct Receipt {
    uint64 job;
    uint8 status;
    uint128 cumulative;
    uint64 finishedAt;
    bytes32 detail;
}

/// @notice Commits to what a job was.
struct Detail {
    bytes32 input;
    bytes32 output;
    bytes32 execution;
    uint128 price;
}

/// @notice Proves that a leaf is the `index`-th of `count` under a root (RFC 9162).
struct Proof {
    uint32 index;
    uint32 count;
    bytes32[] path;
}

/// @notice Hashes the structures of the protocol exactly as `docs/protocol.md` fixes them.
library Protocol {
    bytes32 internal constant TERMS_TYPE = keccak256(
        "Terms(address buyer,address runner,bytes32 model,address publisher,uint128 price,uint16 royaltyBps,uint16 feeBps,uint64 expiresAt,bytes32 salt)"
    );
    bytes32 internal constant VOUCHER_TYPE = keccak256("Voucher(bytes32 channel,uint128 cumulative)");
    bytes32 internal constant BATCH_TYPE = keccak256("Batch(bytes32 root,uint32 count)");
    bytes32 internal constant REGISTRATION_TYPE = keccak256("Registration(address runner,address provider,bytes32 statement)");

    /// @notice Computes the EIP-712 domain separator of the escrow: the one domain of all signatures.
    function domainSeparator(address escrow) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Assay"),
                keccak256("1"),
                block.chainid,
                escrow
            )
        );
    }

    function typed(bytes32 domain, bytes32 structHash) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, shl(240, 0x1901))
            mstore(add(at, 0x02), domain)
            mstore(add(at, 0x22), structHash)
            digest := keccak256(at, 0x42)
        }
    }

    /// @notice Computes the channel of terms.
    function channelOf(bytes32 domain, Terms calldata t) internal pure returns (bytes32) {
        // The nine words stand in calldata as EIP-712 encodes them. Dirty padding gives another channel, which nobody signed.
        bytes32 typeHash = TERMS_TYPE;
        bytes32 hash;
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, typeHash)
            calldatacopy(add(at, 0x20), t, 0x120)
            hash := keccak256(at, 0x140)
        }
        return typed(domain, hash);
    }

    function voucherDigest(bytes32 domain, bytes32 channel, uint128 cumulative) internal pure returns (bytes32) {
        return typed(domain, keccak256(abi.encode(VOUCHER_TYPE, channel, cumulative)));
    }

    function batchDigest(bytes32 domain, bytes32 root, uint32 count) internal pure returns (bytes32) {
        return typed(domain, keccak256(abi.encode(BATCH_TYPE, root, count)));
    }

    function registrationDigest(bytes32 domain, address runner, address provider, bytes32 statement)
        internal
        pure
        returns (bytes32)
    {
        return typed(domain, keccak256(abi.encode(REGISTRATION_TYPE, runner, provider, statement)));
    }

    /// @notice Computes the digest of a detail.
    function detailDigest(Detail calldata d) internal view returns (bytes32 digest) {
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, shl(192, 0x415359316465746c))
            calldatacopy(add(at, 0x08), d, 0x60)
            mstore(add(at, 0x68), shl(128, calldataload(add(d, 0x60))))
            if iszero(staticcall(gas(), 2, at, 0x78, 0, 0x20)) { revert(0, 0) }
            digest := mload(0)
        }
    }

    /// @notice Computes the Merkle leaf of a receipt.
    function leaf(bytes32 channel, Receipt calldata r) internal view returns (bytes32 hash) {
        // A zero byte, the tag, the channel, then the receipt's fields at their own widths: 106 bytes.
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, shl(184, 0x004153593172637074))
            mstore(add(at, 9), channel)
            mstore(add(at, 41), shl(192, calldataload(r)))
            mstore(add(at, 49), shl(248, calldataload(add(r, 0x20))))
            mstore(add(at, 50), shl(128, calldataload(add(r, 0x40))))
            mstore(add(at, 66), shl(192, calldataload(add(r, 0x60))))
            mstore(add(at, 74), calldataload(add(r, 0x80)))
            if iszero(staticcall(gas(), 2, at, 106, 0, 0x20)) { revert(0, 0) }
            hash := mload(0)
        }
    }

    function node(bytes32 left, bytes32 right) internal view returns (bytes32 hash) {
        // Written by hand: a settlement computes one for every claim.
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore8(at, 1)
            mstore(add(at, 0x01), left)
            mstore(add(at, 0x21), right)
            if iszero(staticcall(gas(), 2, at, 0x41, 0, 0x20)) { revert(0, 0) }
            hash := mload(0)
        }
    }

    /// @notice Computes the root of leaves, overwriting them. An unpaired last node moves up unchanged, as in RFC 9162's tree.
    function merkleRoot(bytes32[] memory nodes) internal view returns (bytes32) {
        // Written by hand: bounds checked at every level cost more than the hashes.
        assembly ("memory-safe") {
            let first := add(nodes, 0x20)
            let at := mload(0x40)
            mstore8(at, 1)
            for { let length := mload(nodes) } gt(length, 1) {} {
                let above := shr(1, length)
                let to := first
                let end := add(first, shl(6, above))
                for { let from := first } lt(from, end) { from := add(from, 0x40) } {
                    mcopy(add(at, 1), from, 0x40)
                    if iszero(staticcall(gas(), 2, at, 0x41, to, 0x20)) { revert(0, 0) }
                    to := add(to, 0x20)
                }
                if and(length, 1) {
                    mstore(to, mload(end))
                    above := add(above, 1)
                }
                length := above
            }
        }
        return nodes[0];
    }

    /// @notice Computes the root a proof leads to (RFC 9162 section 2.1.3.2); zero when the proof has the wrong length.
    function rootFromProof(bytes32 hash, Proof calldata p) internal view returns (bytes32) {
        if (p.index >= p.count) return 0;
        uint256 position = p.index;
        uint256 last = p.count - 1;
        for (uint256 i = 0; i < p.path.length; i++) {
            if (last == 0) return 0;
            if (position & 1 == 1 || position == last) {
                hash = node(p.path[i], hash);
                while (position & 1 == 0 && position != 0) {
                    position >>= 1;
                    last >>= 1;
                }
            } else {
                hash = node(hash, p.path[i]);
            }
            position >>= 1;
            last >>= 1;
        }
        return last == 0 ? hash : bytes32(0);
    }

    /// @notice Recovers the signer of a digest from r, s, v; zero when the signature is not canonical (EIP-2).
    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address) {
        if (signature.length != 65) return address(0);
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        uint8 v = uint8(signature[64]);
        if (uint256(s) > 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0) return address(0);
        if (v != 27 && v != 28) return address(0);
        return ecrecover(digest, v, r, s);
    }
}
