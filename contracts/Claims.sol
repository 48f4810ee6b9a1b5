// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Protocol} from "./Protocol.sol";

/// @dev Where a listing, or a claim, begins in calldata.
type Listing is uint256;
type Claim is uint256;

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
    uint256 private constant LISTING = 72;
    uint256 private constant CLAIM = 142;
    uint256 private constant RECEIPT = 65;
    uint256 private constant PAYMENT = 84;
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// @dev What all claims share; `channels` are theirs, in order.
    struct Batch {
        address runner;
        bool signed;
        bytes32[] channels;
        uint256 scratch;
        // Attestations of the runner, as the escrow packs them: what a listing's pot remembers, what the registry told for all, and that
        // again where the listing rests on it.
        uint256 remembered;
        uint256 told;
        uint256 learned;
        bool asked;
    }

    error MalformedClaims();

    function word(uint256 at) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := calldataload(at)
        }
    }

    /// @notice Reads the frame of packed claims, computes every channel and leaf, and tells whether the runner signed their root. Reverts with
    ///         MalformedClaims where lengths do not add up.
    function open(Batch memory batch, bytes calldata packed, bytes32 domain, uint16 feeBps)
        internal
        view
        returns (uint256 count, uint256 listings, Listing first)
    {
        uint256 at;
        assembly ("memory-safe") {
            at := packed.offset
        }
        // Positions in calldata and numbers of 16 bits never overflow 256.
        unchecked {
            uint256 frame = word(at + 56);
            uint256 mode = frame & 0xff;
            batch.runner = address(uint160(word(at) >> 96));
            listings = frame >> 8 & 0xff;
            count = frame >> 16 & 0xffff;
            require(mode < 2 && count > 0, MalformedClaims());
            uint256 proof = at + HEADER;
            first = Listing.wrap(proof);
            if (mode == 1) {
                require(count == 1, MalformedClaims());
                first = Listing.wrap(proof + 9 + (word(proof + 8) >> 248) * 32);
            }
            bytes32[] memory leaves = readAll(batch, count, listings, Listing.unwrap(first), at + packed.length, domain, feeBps);
            uint256 size = count;
            bytes32 root;
            if (mode == 1) (root, size) = (rootOf(leaves[0], proof), word(proof + 4) >> 224);
            else root = Protocol.merkleRoot(leaves);
            batch.scratch = newTypedScratch(domain);
            address signer = recover(typed(batch.scratch, Protocol.BATCH_TYPE, uint256(root), size), at + 20);
            batch.signed = root != 0 && signer != address(0) && signer == batch.runner;
        }
    }

    /// @dev Walks every listing and claim once and computes channels and leaves. Beyond its end calldata may hold anything, so what was read
    ///      counts only if the walk ends exactly there: that one check stands for a bound on every part.
    function readAll(
        Batch memory batch,
        uint256 count,
        uint256 listings,
        uint256 at,
        uint256 end,
        bytes32 domain,
        uint16 feeBps
    ) private view returns (bytes32[] memory leaves) {
        (uint256 terms, uint256 typed, uint256 leaf) = newScratch(domain, batch.runner, feeBps);
        bytes32[] memory channels = newWords(count);
        leaves = newWords(count);
        batch.channels = channels;
        unchecked {
            uint256 next;
            uint256 last;
            uint256 toLeaf;
            assembly ("memory-safe") {
                next := add(channels, 0x20)
                last := add(next, shl(5, mload(channels)))
                toLeaf := sub(leaves, channels)
            }
            for (uint256 i = listings; i > 0; i--) {
                uint256 until = next + size(Listing.wrap(at)) * 32;
                require(until > next && until <= last, MalformedClaims());
                assembly ("memory-safe") {
                    mstore(add(terms, 0x60), calldataload(at))
                    mstore(add(terms, 0x80), shr(96, calldataload(add(at, 32))))
                    mstore(add(terms, 0xa0), shr(128, calldataload(add(at, 52))))
                    mstore(add(terms, 0xc0), shr(240, calldataload(add(at, 68))))
                }
                at += LISTING;
                for (; next < until; next += 32) {
                    assembly ("memory-safe") {
                        mstore(add(terms, 0x20), shr(96, calldataload(add(at, 1))))
                        mstore(add(terms, 0x100), shr(192, calldataload(add(at, 21))))
                        mstore(add(terms, 0x120), calldataload(add(at, 29)))
                        mstore(add(typed, 34), keccak256(terms, 0x140))
                        let channel := keccak256(typed, 66)
                        mstore(next, channel)
                        mstore(add(leaf, 9), channel)
                        calldatacopy(add(leaf, 41), add(at, 61), RECEIPT)
                        if iszero(staticcall(gas(), 2, leaf, 106, add(next, toLeaf), 32)) { revert(0, 0) }
                    }
                    require(kind(Claim.wrap(at)) <= MANDATE, MalformedClaims());
                    at = Claim.unwrap(following(Claim.wrap(at)));
                }
            }
            require(next == last && at == end, MalformedClaims());
        }
    }

    // A listing and a claim are where they begin in calldata; `open` has walked them all, so nothing below looks at lengths again.

    function model(Listing listing) internal pure returns (bytes32) {
        return bytes32(word(Listing.unwrap(listing)));
    }

    function publisher(Listing listing) internal pure returns (address) {
        unchecked {
            return address(uint160(word(Listing.unwrap(listing) + 32) >> 96));
        }
    }

    function royaltyBps(Listing listing) internal pure returns (uint16) {
        unchecked {
            return uint16(word(Listing.unwrap(listing) + 68) >> 240);
        }
    }

    /// @notice Reads how many claims a listing has.
    function size(Listing listing) internal pure returns (uint256) {
        unchecked {
            return word(Listing.unwrap(listing) + 70) >> 240;
        }
    }

    /// @notice Finds the first claim of a listing.
    function firstOf(Listing listing) internal pure returns (Claim) {
        unchecked {
            return Claim.wrap(Listing.unwrap(listing) + LISTING);
        }
    }

    function kind(Claim claim) internal pure returns (uint256) {
        return word(Claim.unwrap(claim)) >> 248;
    }

    function buyer(Claim claim) internal pure returns (address) {
        unchecked {
            return address(uint160(word(Claim.unwrap(claim) + 1) >> 96));
        }
    }

    function expiresAt(Claim claim) internal pure returns (uint64) {
        unchecked {
            return uint64(word(Claim.unwrap(claim) + 21) >> 192);
        }
    }

    function cumulative(Claim claim) internal pure returns (uint128) {
        unchecked {
            return uint128(word(Claim.unwrap(claim) + 70) >> 128);
        }
    }

    function finishedAt(Claim claim) internal pure returns (uint64) {
        unchecked {
            return uint64(word(Claim.unwrap(claim) + 86) >> 192);
        }
    }

    function voucher(Claim claim) internal pure returns (uint128) {
        unchecked {
            return uint128(word(Claim.unwrap(claim) + 126) >> 128);
        }
    }

    /// @notice Finds where the signature of a key begins.
    function signature(Claim claim) internal pure returns (uint256) {
        unchecked {
            return Claim.unwrap(claim) + CLAIM;
        }
    }

    /// @notice Copies the signature of a contract wallet.
    function walletSignature(Claim claim) internal pure returns (bytes memory copy) {
        uint256 at = signature(claim);
        uint256 length = word(at) >> 240;
        copy = new bytes(length);
        assembly ("memory-safe") {
            calldatacopy(add(copy, 0x20), add(at, 2), length)
        }
    }

    /// @notice Finds what follows a claim: another, or a listing.
    function following(Claim claim) internal pure returns (Claim) {
        unchecked {
            uint256 at = signature(claim);
            return Claim.wrap(at + (kind(claim) == WALLET ? 2 + (word(at) >> 240) : 64));
        }
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

    /// @dev Makes room for words that are all written before any is read: clearing them first would cost as much as all else about them.
    function newWords(uint256 count) private pure returns (bytes32[] memory words) {
        assembly ("memory-safe") {
            words := mload(0x40)
            mstore(words, count)
            mstore(0x40, add(words, shl(5, add(count, 1))))
        }
    }

    /// @notice Tells the channel of a claim by its place; the caller stays below `count`.
    function channelAt(Batch memory batch, uint256 index) internal pure returns (bytes32 channel) {
        bytes32[] memory channels = batch.channels;
        assembly ("memory-safe") {
            channel := mload(add(channels, shl(5, add(index, 1))))
        }
    }

    function newTypedScratch(bytes32 domain) private pure returns (uint256 scratch) {
        assembly ("memory-safe") {
            scratch := mload(0x40)
            mstore(add(scratch, 0x60), shl(240, 0x1901))
            mstore(add(scratch, 0x62), domain)
            mstore(0x40, add(scratch, 0xc0))
        }
    }

    /// @notice Computes what is signed of a type of two words (EIP-712), in memory laid out beforehand: a voucher, a batch.
    function typed(uint256 scratch, bytes32 typeHash, uint256 first, uint256 second) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            mstore(scratch, typeHash)
            mstore(add(scratch, 0x20), first)
            mstore(add(scratch, 0x40), second)
            mstore(add(scratch, 0x82), keccak256(scratch, 0x60))
            digest := keccak256(add(scratch, 0x60), 66)
        }
    }

    /// @dev Computes the root a proof leads to (RFC 9162 section 2.1.3.2); zero when the proof has the wrong length.
    function rootOf(bytes32 hash, uint256 proof) private view returns (bytes32) {
        uint256 position = word(proof) >> 224;
        uint256 leaves = word(proof + 4) >> 224;
        uint256 length = word(proof + 8) >> 248;
        if (position >= leaves) return 0;
        uint256 last = leaves - 1;
        for (uint256 i = 0; i < length; i++) {
            if (last == 0) return 0;
            bytes32 sibling = bytes32(word(proof + 9 + i * 32));
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
    function recover(bytes32 digest, uint256 at) internal view returns (address signer) {
        unchecked {
            uint256 vs = word(at + 0x20);
            uint256 s = vs & type(uint256).max >> 1;
            if (s > HALF_ORDER) return address(0);
            assembly ("memory-safe") {
                let free := mload(0x40)
                mstore(free, digest)
                mstore(add(free, 0x20), add(shr(255, vs), 27))
                mstore(add(free, 0x40), calldataload(at))
                mstore(add(free, 0x60), s)
                // The precompile answers nothing where there is no signer, and fails only for want of gas.
                mstore(0, 0)
                if iszero(staticcall(gas(), 1, free, 0x80, 0, 0x20)) { revert(0, 0) }
                signer := mload(0)
            }
        }
    }

    /// @notice Makes room for payments; its length grows with each.
    function newPayments(uint256 claims) internal pure returns (bytes memory payments) {
        assembly ("memory-safe") {
            payments := mload(0x40)
            mstore(payments, 0)
            mstore(0x40, add(payments, and(add(mul(claims, PAYMENT), 0x3f), not(0x1f))))
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
