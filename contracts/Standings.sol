// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Is told of every change of what stands, in the transaction that makes it.
interface IFollowsStandings {
    function followStanding() external;
    function followApprovals(uint256 page) external;
}

/// @notice Keeps which registrations stand. The policy rules it; the escrow follows it, because asking another contract for it would cost a
///         settlement 2,600 gas and the call.
abstract contract Standings {
    /// @notice Fills one slot with what settling reads.
    struct Standing {
        uint32 killedAt; // registrations made up to this time count no more (unix seconds)
        uint16 policyEpoch; // how often the kill switch was pulled
        uint208 approvals; // bit n: the workload at position n is approved; later positions lie in `laterApprovals`
    }

    uint16 internal constant PACKED = 208;

    /// @notice Which registrations stand.
    Standing public standing;
    /// @notice Whether the workloads at positions 256 × page to 256 × page + 255 are approved, from position 208 on.
    mapping(uint256 page => uint256) public laterApprovals;

    /// @dev Tells whether neither all registrations of a time nor the workload's were ended since.
    function stands(uint256 registeredAt, uint16 index) internal view returns (bool) {
        Standing memory now_ = standing;
        return registeredAt > now_.killedAt && isApproved(index, now_.approvals);
    }

    /// @dev Tells whether the workload at a position is approved now.
    function isApproved(uint16 index, uint208 approvals) internal view returns (bool) {
        if (index < PACKED) return (approvals >> index) & 1 == 1;
        return (laterApprovals[index >> 8] >> (index & 0xff)) & 1 == 1;
    }
}
