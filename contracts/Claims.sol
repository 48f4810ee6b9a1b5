// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Protocol} from "./Protocol.sol";

/// @notice Reads claims packed without padding, because calldata is most of what a settlement costs.
/// @dev Integers are big-endian. A batch:
///        runner 20 | r 32 | yParity and s 32 (EIP-2098) | claims u16 | groups u8 | mode u8
///        mode 1 only, one claim: index u32 | count u32 | path length u8 | path 32 each
///      then groups, each one listing: model 32 | publisher 20 | price u128 | royaltyBps u16 | claims u16
///      then its claims:
///        kind u8 | buyer 20 | expiresAt u64 | salt 32
///        | job u64 | status u8 | cumulative u128 | finishedAt u64 | detail 32   (as in the receipt's leaf)
///        | voucher u128 | signature: r 32 and yParity and s 32, or for a contract wallet its length u16 and its bytes
///      Terms take the escrow's own fee: a channel of another fee has another id, whose voucher does not verify.
library Claims {
    /// @dev The buyer's own key signed the voucher; a contract wallet vouches for it; a mandated key signed it.
    uint8 internal constant KEY = 0;
    uint8 internal constant WALLET = 1;
    uint8 internal constant MANDATE = 2;

    uint256 private constant HEADER = 88;
    uint256 private constant GROUP = 72;
    uint256 private constant CLAIM = 142;
    uint256 private constant RECEIPT = 65;
    uint256 private constant PAYMENT = 84;

    struct Batch {
        address runner;
        address signer;
        uint256 count;
        uint256 groups;
        uint256 cursor;
        uint256 end;
        uint256 voucherScratch;
        bytes32[] channels;
        address provider;
        uint64 activeFrom;
        uint64 activeUntil;
    }

    struct Group {
        bytes32 model;
        address publisher;
        uint16 royaltyBps;
        uint256 claims;
    }

    struct Claim {
        uint8 kind;
        address buyer;
        uint64 expiresAt;
        uint64 finishedAt;
        uint128 cumulative;
        uint128 voucher;
        /// What the channel had been paid before this claim.
        uint128 settled;
        bytes32 channel;
        uint256 signature;
        uint256 signatureLength;
    }

    error MalformedClaims();

    /// @dev Reads up to 32 bytes of calldata as a number; calldata ends in zeros, so bounds are checked once where a part begins.
    function read(uint256 at, uint256 size) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := shr(sub(256, shl(3, size)), calldataload(at))
        }
    }

    /// @notice Reads the frame of packed claims, computes every channel and leaf, and recovers who signed their root. Leaves the cursor at the
    ///         first group. Reverts with MalformedClaims where lengths do not add up.
    function open(bytes calldata packed, bytes32 domain, uint16 feeBps) internal view returns (Batch memory batch) {
        require(packed.length >= HEADER, MalformedClaims());
        uint256 at;
        assembly ("memory-safe") {
            at := packed.offset
        }
        batch.end = at + packed.length;
        batch.runner = address(uint160(read(at, 20)));
        batch.count = read(at + 84, 2);
        batch.groups = read(at + 86, 1);
        uint256 mode = read(at + 87, 1);
        require(batch.count > 0 && mode < 2, MalformedClaims());
        uint256 proof = at + HEADER;
        uint256 first = proof;
        if (mode == 1) {
            require(batch.count == 1 && proof + 9 <= batch.end, MalformedClaims());
            first = proof + 9 + read(proof + 8, 1) * 32;
        }
        batch.cursor = first;
        bytes32[] memory leaves = readAll(batch, domain, feeBps);
        batch.cursor = first;
        (bytes32 root, uint32 size) =
            mode == 1 ? (rootOf(leaves[0], proof), uint32(read(proof + 4, 4))) : (Protocol.merkleRoot(leaves), uint32(batch.count));
        if (root != 0) batch.signer = recover(Protocol.batchDigest(domain, root, size), at + 20);
        batch.voucherScratch = newVoucherScratch(domain);
    }

    /// @dev Walks every group and claim once: checks bounds, computes channels and leaves.
    function readAll(Batch memory batch, bytes32 domain, uint16 feeBps) private view returns (bytes32[] memory leaves) {
        uint256 count = batch.count;
        leaves = new bytes32[](count);
        batch.channels = new bytes32[](count);
        (uint256 terms, uint256 typed, uint256 leaf) = newScratch(domain, batch.runner, feeBps);
        uint256 next = 0;
        for (uint256 g = 0; g < batch.groups; g++) {
            uint256 at = batch.cursor;
            require(at + GROUP <= batch.end, MalformedClaims());
            uint256 size = read(at + 70, 2);
            require(size > 0 && next + size <= count, MalformedClaims());
            assembly ("memory-safe") {
                mstore(add(terms, 0x60), calldataload(at))
                mstore(add(terms, 0x80), shr(96, calldataload(add(at, 32))))
                mstore(add(terms, 0xa0), shr(128, calldataload(add(at, 52))))
                mstore(add(terms, 0xc0), shr(240, calldataload(add(at, 68))))
            }
            at += GROUP;
            for (uint256 i = 0; i < size; i++) {
                require(at + CLAIM + 2 <= batch.end, MalformedClaims());
                bytes32 channel;
                bytes32 hash;
                assembly ("memory-safe") {
                    mstore(add(terms, 0x20), shr(96, calldataload(add(at, 1))))
                    mstore(add(terms, 0x100), shr(192, calldataload(add(at, 21))))
                    mstore(add(terms, 0x120), calldataload(add(at, 29)))
                    mstore(add(typed, 34), keccak256(terms, 0x140))
                    channel := keccak256(typed, 66)
                    mstore(add(leaf, 9), channel)
                    calldatacopy(add(leaf, 41), add(at, 61), RECEIPT)
                    if iszero(staticcall(gas(), 2, leaf, 106, 0, 32)) { revert(0, 0) }
                    hash := mload(0)
                }
                batch.channels[next] = channel;
                leaves[next++] = hash;
                at = afterClaim(at);
                require(at <= batch.end, MalformedClaims());
            }
            batch.cursor = at;
        }
        require(next == count && batch.cursor == batch.end, MalformedClaims());
    }

    function afterClaim(uint256 at) private pure returns (uint256) {
        uint256 kind = read(at, 1);
        require(kind <= MANDATE, MalformedClaims());
        return at + CLAIM + (kind == WALLET ? 2 + read(at + CLAIM, 2) : 64);
    }

    /// @dev Lays out the three preimages once: the parts that do not change stay where they are.
    function newScratch(bytes32 domain, address runner, uint16 feeBps)
        private
        pure
        returns (uint256 terms, uint256 typed, uint256 leaf)
    {
        bytes32 typeHash = Protocol.TERMS_TYPE;
        assembly ("memory-safe") {
            terms := mload(0x40)
            mstore(terms, typeHash)
            mstore(add(terms, 0x40), runner)
            mstore(add(terms, 0xe0), feeBps)
            typed := add(terms, 0x140)
            mstore(typed, shl(240, 0x1901))
            mstore(add(typed, 2), domain)
            leaf := add(typed, 0x60)
            // A leaf begins with a zero byte and the eight bytes of the receipt's tag.
            mstore(leaf, shl(184, 0x004153593172637074))
            mstore(0x40, add(leaf, 0xa0))
        }
    }

    function newVoucherScratch(bytes32 domain) private pure returns (uint256 scratch) {
        bytes32 typeHash = Protocol.VOUCHER_TYPE;
        assembly ("memory-safe") {
            scratch := mload(0x40)
            mstore(scratch, typeHash)
            mstore(add(scratch, 0x60), shl(240, 0x1901))
            mstore(add(scratch, 0x62), domain)
            mstore(0x40, add(scratch, 0xc0))
        }
    }

    /// @notice Computes what a buyer signs for a channel's running total (EIP-712), in memory laid out beforehand.
    function voucherDigest(uint256 scratch, bytes32 channel, uint128 cumulative) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            mstore(add(scratch, 0x20), channel)
            mstore(add(scratch, 0x40), cumulative)
            let hash := keccak256(scratch, 0x60)
            // The word of the running total lies right before the prefix and is written anew each time.
            mstore(add(scratch, 0x82), hash)
            digest := keccak256(add(scratch, 0x60), 66)
        }
    }

    /// @notice Moves on to the next listing.
    function nextGroup(Batch memory batch) internal pure returns (Group memory group) {
        uint256 at = batch.cursor;
        group.model = bytes32(read(at, 32));
        group.publisher = address(uint160(read(at + 32, 20)));
        group.royaltyBps = uint16(read(at + 68, 2));
        group.claims = read(at + 70, 2);
        batch.cursor = at + GROUP;
    }

    /// @notice Moves on to the next claim, the `index`-th of the batch.
    function nextClaim(Batch memory batch, Claim memory claim, uint256 index) internal pure {
        uint256 at = batch.cursor;
        claim.kind = uint8(read(at, 1));
        claim.buyer = address(uint160(read(at + 1, 20)));
        claim.expiresAt = uint64(read(at + 21, 8));
        claim.cumulative = uint128(read(at + 70, 16));
        claim.finishedAt = uint64(read(at + 86, 8));
        claim.voucher = uint128(read(at + 126, 16));
        claim.channel = batch.channels[index];
        claim.signature = at + CLAIM;
        if (claim.kind == WALLET) {
            claim.signature += 2;
            claim.signatureLength = read(at + CLAIM, 2);
        }
        batch.cursor = afterClaim(at);
    }

    /// @dev Computes the root a proof leads to (RFC 9162 section 2.1.3.2); zero when the proof has the wrong length.
    function rootOf(bytes32 hash, uint256 proof) private view returns (bytes32) {
        uint256 position = read(proof, 4);
        uint256 size = read(proof + 4, 4);
        uint256 length = read(proof + 8, 1);
        if (position >= size) return 0;
        uint256 last = size - 1;
        for (uint256 i = 0; i < length; i++) {
            if (last == 0) return 0;
            bytes32 sibling = bytes32(read(proof + 9 + i * 32, 32));
            if (position & 1 == 1 || position == last) {
                hash = Protocol.node(sibling, hash);
                while (position & 1 == 0 && position != 0) {
                    position >>= 1;
                    last >>= 1;
                }
            } else {
                hash = Protocol.node(hash, sibling);
            }
            position >>= 1;
            last >>= 1;
        }
        return last == 0 ? hash : bytes32(0);
    }

    /// @notice Recovers the signer of a compact signature in calldata (EIP-2098); zero when it is not canonical (EIP-2).
    function recover(bytes32 digest, uint256 at) internal pure returns (address) {
        uint256 vs = read(at + 32, 32);
        uint256 s = vs & type(uint256).max >> 1;
        if (s > 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0) return address(0);
        return ecrecover(digest, uint8(vs >> 255) + 27, bytes32(read(at, 32)), bytes32(s));
    }

    /// @notice Copies bytes of calldata.
    function bytesAt(uint256 at, uint256 length) internal pure returns (bytes memory copy) {
        copy = new bytes(length);
        assembly ("memory-safe") {
            calldatacopy(add(copy, 0x20), at, length)
        }
    }

    /// @notice Makes room for payments; its length grows with each.
    function newPayments(uint256 claims) internal pure returns (bytes memory payments) {
        payments = new bytes(claims * PAYMENT);
        assembly ("memory-safe") {
            mstore(payments, 0)
        }
    }

    /// @notice Adds one payment: channel, buyer, amount, total settled.
    function addPayment(bytes memory payments, bytes32 channel, address buyer, uint128 amount, uint128 total) internal pure {
        assembly ("memory-safe") {
            let length := mload(payments)
            let at := add(add(payments, 0x20), length)
            mstore(at, channel)
            mstore(add(at, 0x20), shl(96, buyer))
            mstore(add(at, 0x34), or(shl(128, amount), total))
            mstore(payments, add(length, PAYMENT))
        }
    }
}
